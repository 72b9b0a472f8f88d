//! The tests against a real API server and on a real cluster
