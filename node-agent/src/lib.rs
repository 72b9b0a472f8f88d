//! The agent that writes kubelet's credential configuration on each node.
