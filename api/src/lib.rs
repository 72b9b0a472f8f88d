//! The resources of pullpass.dev and their translation into the domain
