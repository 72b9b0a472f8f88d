//! The admission webhook that gives pods their pull secret
