//! Logs in to image registries, and asks them whether a credential is good.
