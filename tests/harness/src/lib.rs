//! Clusters, namespaces and registries for the tests
