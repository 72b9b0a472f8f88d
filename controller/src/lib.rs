//! The controller that keeps the pull secret of each namespace up to date
