//! The closed set of reasons: one word for each outcome, the same in metrics, events, conditions, warnings,
//! audit annotations, documentation and command line.

use std::fmt;

/// Declares the set once, so that no word can be without its explanation.
macro_rules! reasons {
    ($($(#[doc = $about:literal])+ $name:ident: $advice:literal,)+) => {
        /// Why something is as it is. Each reason's text is its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $about])+ $name,)+ }

        impl Reason {
            /// Every reason there is, in the order of the documentation.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The reason as one word, in the form that Kubernetes asks of a condition's reason.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)+ }
            }

            /// What the reason means, as one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$name => concat!($($about),+).trim_ascii(),)+ }
            }

            /// What somebody who did not expect it can do, as one sentence; empty where all is well.
            pub fn advice(self) -> &'static str {
                match self { $(Reason::$name => $advice,)+ }
            }
        }
    };
}

reasons! {
    // what the webhook did with a pod
    /// The pull secret's name was appended to the pod.
    Injected: "",
    /// The name was appended although the Secret is not there yet; kubelet finds it as soon as it is.
    InjectedAhead: "Look at the namespace's PullAccess and at the controller if pulls fail.",
    /// The pod names the pull secret already.
    AlreadyPresent: "",
    /// The namespace's registries are injected only for images that the pod does not have.
    NoImageMatches: "Write the image with the host of the Registry, or set its spec.injection to Always.",
    /// The pod carries the label pullpass.dev/inject=false.
    PodOptedOut: "Remove the label and create the pod again.",
    /// The pod is the image of a static pod, which may not refer to a Secret.
    MirrorPod: "Give the node the credential instead: see the node agent.",
    /// The pod's service account allows only the Secrets that it lists.
    MountableSecretsEnforced: "List the pull secret under the service account's imagePullSecrets, or remove its annotation kubernetes.io/enforce-mountable-secrets.",
    /// The request is not the creation of a pod.
    NotAPodCreation: "Restore the rules of the webhook configuration from the chart.",
    /// The request could not be read as an AdmissionReview of a pod.
    UnreadableReview: "See the webhook's log for the place in the request.",
    /// The webhook does not know the cluster's registries or namespaces yet.
    NotReady: "Wait until the webhook is ready; it is asked only then.",
    /// The webhook had not heard of the namespace yet, and its name alone gives it nothing.
    NamespaceUnknown: "Create the pod again if its pulls fail; look at the webhook's watches if it happens again.",

    // what a namespace may use
    /// The namespace may use the registry.
    Granted: "",
    /// No registry selects the namespace.
    NothingGranted: "Ask the administrator to include the namespace in a Registry's spec.access.namespaces.",
    /// The namespace carries the label pullpass.dev/inject=false.
    NamespaceOptedOut: "Remove the label from the namespace.",
    /// System namespaces and those of Pullpass are never selected.
    SystemNamespace: "An administrator can name the namespace in the chart value policy.systemNamespaces.",
    /// The namespace is being deleted.
    NamespaceTerminating: "",
    /// The registry is public and needs no credential.
    PublicRegistry: "",
    /// The registry is limited to some clusters, and this cluster's name is not set.
    ClusterNameUnset: "Set the chart value clusterName.",
    /// The registry is not for this cluster.
    ClusterNotSelected: "Add the cluster's name to spec.access.clusters.autoInject.",
    /// The registry excludes this cluster.
    ClusterExcluded: "Remove the cluster's name from spec.access.clusters.doNotInject.",
    /// The registry does not include the namespace's name.
    NamespaceNotIncluded: "Add the namespace to spec.access.namespaces.include.",
    /// The registry excludes the namespace.
    NamespaceExcluded: "Remove the namespace from spec.access.namespaces.exclude.",
    /// The namespace's labels do not match the registry's selector.
    LabelsNotSelected: "Label the namespace as spec.access.namespaces.selector asks.",
    /// The Registry's own fields contradict each other or cannot be read.
    InvalidRegistry: "Correct the field that the message names.",

    // what became of a registry's credential
    /// The credential is in the namespace's Secret.
    Available: "",
    /// The namespace holds the credential itself, in the Secret that the Registry names.
    HeldByNamespace: "Create the Secret that spec.access.pullSecret names in the namespace if pulls fail.",
    /// The credential's source Secret is not there.
    SourceMissing: "Create the Secret that spec.auth names in Pullpass's namespace.",
    /// The source Secret lacks a key that is needed.
    SourceKeyMissing: "Add the key that the message names, or select another in spec.auth.",
    /// The source Secret's content cannot be read.
    MalformedSource: "Correct the content; the message tells what is wrong with it.",
    /// The source holds an empty user name and password, which kubelet would take for a request to pull anonymously.
    EmptyCredential: "Fill in user name and password.",
    /// The source docker config has no entry for the registry's host.
    NoMatchingEntry: "Add an entry for the host, or leave spec.host out to take every entry.",
    /// No credential of the registry has been read yet.
    CredentialPending: "See the Registry's conditions.",
    /// Another registry provides the credential for the same key.
    LostToPriority: "Raise spec.priority, or let the two registries select different namespaces.",
    /// The entry does not fit into the Secret, which may hold 1 MiB.
    TooLarge: "Let the namespace use fewer registries, or give this one a higher spec.priority.",

    // what the registry said to a credential
    /// The registry takes the credential.
    Accepted: "",
    /// The registry does not take the user name and password.
    Unauthorized: "Correct the source; a mistyped and a revoked password look the same to Pullpass.",
    /// The registry refuses the login although it can read it.
    Forbidden: "Give the login the right to pull, or correct spec.verify.repository; some registries say so to a wrong password, too.",
    /// The credential's life is over.
    Expired: "Make a new token, or a way to log in that renews itself.",
    /// The registry answers only a limited number of requests, and the limit is reached.
    RateLimited: "Wait; Pullpass asks again when the registry allows it.",
    /// What answers under the host is not the registry that the credential is for.
    HostMismatch: "Correct spec.host; the message tells what answered.",
    /// The registry or its token service cannot be reached from the controller.
    Unreachable: "Check name, route and network policies from the controller to the host that the message names.",
    /// The certificate of the registry or its token service is not to be trusted.
    CertificateUnknown: "Give the authority in spec.connection.tls, or correct the certificate; the message tells what is wrong.",
    /// The registry wants the credential to be sent where it must not go.
    UnsafeRealm: "Correct the token service's address in the registry's configuration; the message names it.",
    /// The proxy does not let the controller through to the registry.
    ProxyFailed: "Check address, login and rules of the proxy in spec.connection.via.",
    /// The registry or its token service fails by itself.
    RegistryFailing: "See the registry's own log; Pullpass asks again.",
    /// The registry lets everybody in, so that its answer proves nothing about the credential.
    NoChallenge: "Name a private repository in spec.verify.repository.",
    /// The host is a pattern, and only a single host can be asked.
    HostIsPattern: "Write a Registry for each host to have its credential verified.",
    /// The registry lets the credential in, but has no repository of that name.
    RepositoryNotFound: "Correct spec.verify.repository, or push an image there.",

    // what Pullpass did upon what the registry said
    /// The credential is kept out of every namespace, since public images of its host could not be pulled with it.
    CredentialWithheld: "Correct the source as the message tells; a good credential is handed out at once.",
    /// Credentials are not verified on this cluster.
    VerificationOff: "Set the chart value controller.verify.interval to have them verified.",

    // what a cloud said to the controller
    /// The controller's pods have no identity at the cloud that they could log in with.
    IdentityMissing: "Give the controller's service account an identity, as the provider's documentation tells.",
    /// The cloud does not accept the token of the controller's service account.
    IdentityNotTrusted: "Let the cloud trust the cluster's issuer with the subject and audience that the message names.",
    /// The controller's identity may not take on the role or service account that the Registry names.
    RoleNotAssumable: "Add the statement that the message names to the role's or service account's policy.",
    /// The cloud's login service fails by itself, or answers what Pullpass does not understand.
    CloudFailing: "See the cloud's status page; Pullpass asks again.",

    // what became of a namespace's Secret
    /// The Secret is written and complete.
    Written: "",
    /// A Secret of that name is there that Pullpass did not make.
    ForeignSecret: "Delete or rename that Secret, or choose another name by the chart value pullSecrets.name.",
    /// The namespace's quota does not admit another Secret.
    QuotaExceeded: "Raise the namespace's quota for Secrets by one.",
    /// The API server refused the Secret.
    WriteRefused: "See the message; an admission policy of the cluster may be in the way.",

    // what became of a registry's credential on nodes
    /// Every node holds the credential.
    OnEveryNode: "",
    /// Some nodes do not hold the credential yet.
    SomeNodesPending: "See the NodePullAccess of the nodes that the message names.",
    /// The Registry keeps its credential off nodes.
    NodesDenied: "Set spec.access.nodes to Auto or Allow.",
    /// The registry is for some namespaces only, and nodes in mode dockerConfig cannot tell namespaces apart.
    RestrictedToNamespaces: "Set the chart value nodeAgent.mode to credentialProvider, or spec.access.nodes to Allow, which gives the credential to every pod.",
    /// Nodes are to give up what they hold.
    NodesWithdrawn: "Set the chart value nodeAgent.withdraw to false, or nodeAgent.enabled once every node has.",

    // what stands between a node and the plugin's answers, or the runtime and a registry
    /// Kubelet has not read the provider configuration that is on the node; it does so when it starts.
    KubeletRestartNeeded: "Run the command that the message names on the node, or set the chart value nodeAgent.credentialProvider.kubeletRestart to WhenNeeded.",
    /// Another node's turn to restart kubelet has not ended yet.
    KubeletRestartWaiting: "",
    /// Kubelet did not come back with the provider configuration, which was rolled back; no other node is restarted with it.
    KubeletRestartFailed: "See kubelet's log on the node that the message names, and change the chart values of nodeAgent.credentialProvider.",
    /// The node's kubelet hands plugins no token of the pod, so its pods get what every pod may use and no more.
    KubeletTokensUnsupported: "Upgrade the node to Kubernetes 1.34.",
    /// The node's kubelet is older than Pullpass serves.
    KubeletTooOld: "Upgrade the node to Kubernetes 1.33 or newer.",
    /// The node's provider configuration holds something that this release does not know, so it is left as it is.
    ForeignProviderConfig: "Let kubelet read a directory of files, or add the provider as docs/nodes.md shows.",
    /// Kubelet does not ask the plugin for images of the registry's host.
    OutsideMatchImages: "Add the host's port to the chart value nodeAgent.credentialProvider.ports, and restart kubelet on the nodes.",
    /// The container runtime does not read the files that would tell it how to reach the registry.
    RuntimeConfigPathUnset: "Set config_path in the registry section of containerd's configuration to /etc/containerd/certs.d and restart containerd.",
    /// The container runtime has settings for the registry's host that are not Pullpass's.
    ForeignRuntimeFile: "See the agent's log for the hosts; add the authority to the files there, or remove them.",
    /// The container runtime cannot be told how to reach some of the registries.
    UnknownToRuntime: "See the agent's log for the hosts and for what to do about each.",

    // how a node stands
    /// The node holds the credentials, and kubelet uses them.
    Delivered: "",
    /// The node's agent is about to do it.
    NodePending: "",
    /// Everything of Pullpass was taken off the node.
    Withdrawn: "",
    /// The Secret with the credentials for nodes is not there; what the node holds stays.
    BundleMissing: "See the controller's log: it writes the Secret while the node agent is on.",
    /// The Secret with the credentials for nodes cannot be read; what the node holds stays.
    BundleUnreadable: "Run the controller and the node agent of one release.",
    /// The node has a login of its administrator's for the same key, which has precedence.
    NodeEntryKept: "Remove the entry from the node's docker config, if Pullpass is to provide it.",
    /// The platform manages kubelet's docker config itself, and takes a change of it for a failure of the node.
    ManagedByPlatform: "Switch the node agent off in this cluster: pull secrets work everywhere.",
    /// The directory is not there, or kubelet does not read it.
    NodePathMissing: "Set the chart value nodeAgent.kubeletRootDirectory to what kubelet's flag --root-dir says.",
    /// The directory cannot be written.
    NodeReadOnly: "Let the node agent write the directory that the message names, or keep it off such nodes by nodeAgent.nodeSelector.",
    /// The node's docker config is nothing that Pullpass adds entries to.
    NodeFileUnusable: "Correct the file as the message tells.",
    /// Another program undoes what the node agent does, again and again.
    NodeFileContested: "Find out which program writes the file, and let one of the two do it.",
    /// Kubelet has another docker config that ours would be used instead of.
    NodeFileMasked: "Move its entries as the message tells.",
    /// The node's file system refused a change, which is tried again.
    NodeWriteFailed: "See the message; the disk may be full.",

    // how a registry stands as a whole
    /// Every selected namespace holds the credential.
    Synced: "",
    /// Some selected namespaces do not hold the credential yet.
    Syncing: "",
    /// Some selected namespaces cannot get the credential.
    SomeNamespacesFailed: "See the PullAccess of the namespaces that the message names.",
    /// Pull secrets are off, so that namespaces hold no copy.
    PullSecretsOff: "",
    /// No namespace of this cluster is selected.
    NoNamespaceSelected: "Check spec.access against the namespaces' names and labels.",
    /// The credential was read and is in use.
    CredentialRead: "",
    /// The last good credential stays in use, since the source is not good at present.
    KeepingLastGood: "Correct the source as the message tells.",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_is_one_word_with_a_meaning() {
        for reason in Reason::ALL {
            assert!(
                reason.as_str().bytes().all(|b| b.is_ascii_alphabetic()),
                "{reason}"
            );
            assert!(reason.meaning().ends_with('.'), "{reason}");
            assert!(
                reason.advice().is_empty() || reason.advice().ends_with('.'),
                "{reason}"
            );
        }
    }

    #[test]
    fn no_two_reasons_mean_the_same() {
        let meanings: BTreeSet<_> = Reason::ALL.iter().map(|r| r.meaning()).collect();
        assert_eq!(meanings.len(), Reason::ALL.len());
    }
}
