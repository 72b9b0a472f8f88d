//! What every test here begins with: a user of the registry, and a Registry for namespaces of the test's own.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use pullpass_harness::objects::PULL_SECRET;
use pullpass_harness::registry::User;
use pullpass_harness::{Full, eventually, name};
use pullpass_suites::{copies, pods, registries};
use serde_json::json;

/// How long a pod may take to be where it is going. About a second on an idle machine.
pub(crate) const POD: Duration = Duration::from_secs(90);

/// The states of a pod whose image the registry does not give to kubelet.
pub(crate) const REFUSED: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];

/// A test's own part of the cluster.
pub(crate) struct Scene<C> {
    pub(crate) cluster: C,
    /// The Registry's name, which the test's namespaces begin with.
    pub(crate) name: String,
    /// Whom the source Secret names.
    pub(crate) user: User,
}

impl<C: std::ops::Deref<Target = Full>> Scene<C> {
    /// The Registry selects every namespace whose name begins with the scene's, but those that end with `-excluded`.
    pub(crate) async fn on(cluster: C) -> Self {
        let name = name::unique("e2e");
        let user = cluster.registry().new_user().await;
        registries::write_source(&cluster, &name, &user.name, &user.password).await;
        let own = format!("{name}-*");
        let spec = json!({
            "host": cluster.registry().host(),
            "auth": {"basic": {"secretRef": {"name": name}}},
            "access": {"namespaces": {"include": [own], "exclude": [format!("{name}-excluded")]}},
        });
        registries::create(&cluster, &registries::with_spec(&name, &spec)).await;
        Self {
            cluster,
            name,
            user,
        }
    }

    pub(crate) fn host(&self) -> &str {
        self.cluster.registry().host()
    }

    /// A namespace of the test's own, made at once.
    pub(crate) async fn namespace(&self, suffix: &str) -> String {
        let namespace = format!("{}-{suffix}", self.name);
        self.cluster.create_namespace(&namespace, &[]).await;
        namespace
    }

    /// A namespace of the test's own with the login in it, which the webhook has heard of, and of its Registry.
    pub(crate) async fn injected_namespace(&self, suffix: &str) -> String {
        let namespace = self.namespace(suffix).await;
        self.cluster.has_account(&namespace).await;
        self.has_login(&namespace).await;
        self.injects(&namespace).await;
        namespace
    }

    /// The pull secrets that a pod would have, created now.
    pub(crate) async fn dry_run(&self, namespace: &str, pod: &Pod) -> kube::Result<Vec<String>> {
        let pods: Api<Pod> = self.cluster.of(namespace);
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        Ok(pods::pull_secrets(&pods.create(&dry_run, pod).await?))
    }

    /// Waits until a pod that is tried is injected.
    pub(crate) async fn injects(&self, namespace: &str) {
        let pod = pods::pod("tried", "registry.example.com/any:1");
        eventually(POD, "the webhook injects", async || {
            match self.dry_run(namespace, &pod).await {
                Ok(names) if names == [PULL_SECRET] => Ok(()),
                Ok(names) => Err(format!("{names:?}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Pushes a private image that no node has, and returns its reference.
    pub(crate) async fn image(&self) -> String {
        self.cluster.push_image(&name::unique("private/app")).await
    }

    /// Creates a pod as soon as the built-in controllers have made the namespace's account.
    pub(crate) async fn create(&self, namespace: &str, pod: &Pod) -> Pod {
        let pods: Api<Pod> = self.cluster.of(namespace);
        eventually(POD, "the pod is admitted", async || {
            pods.create(&PostParams::default(), pod)
                .await
                .map_err(|error| error.to_string())
        })
        .await
    }

    /// Waits until the pod runs.
    pub(crate) async fn runs(&self, namespace: &str, name: &str) {
        reaches(&self.cluster.of(namespace), name, &["Running"]).await;
    }

    /// Waits until kubelet has failed to pull the pod's image.
    pub(crate) async fn is_refused(&self, namespace: &str, name: &str) {
        reaches(&self.cluster.of(namespace), name, &REFUSED).await;
    }

    /// Waits until the namespace's pull secret has the user's login, and returns it.
    pub(crate) async fn has_login(&self, namespace: &str) -> Secret {
        let User { name, password } = &self.user;
        copies::has_login(&self.cluster, namespace, self.host(), name, password).await
    }

    /// The events about a pod, as `reason: message`.
    pub(crate) async fn events(&self, namespace: &str, name: &str) -> Vec<String> {
        let events: Api<Event> = self.cluster.of(namespace);
        let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
        events
            .list(&about)
            .await
            .unwrap()
            .into_iter()
            .map(|event| {
                format!(
                    "{}: {}",
                    event.reason.unwrap_or_default(),
                    event.message.unwrap_or_default()
                )
            })
            .collect()
    }

    /// Creates a pod with a private image and waits until it runs, having pulled at its first attempt.
    pub(crate) async fn pulls_at_once(&self, namespace: &str) {
        let image = self.image().await;
        self.pulls_image_at_once(namespace, &image).await;
    }

    /// The same with an image that was pushed before.
    pub(crate) async fn pulls_image_at_once(&self, namespace: &str, image: &str) {
        let name = name::unique("app");
        let pod = pods::pod(&name, image);
        self.pod_pulls_at_once(namespace, &name, &pod).await;
    }

    /// The same for an image that the node may have, and that kubelet has to ask the registry about nevertheless. The pod
    /// is gone afterwards.
    pub(crate) async fn pulls_anew_at_once(&self, namespace: &str, image: &str) {
        let name = name::unique("app");
        let mut manifest = pods::manifest(&name, image);
        manifest["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
        let pod = pods::from(&manifest);
        self.pod_pulls_at_once(namespace, &name, &pod).await;
        let pods: Api<Pod> = self.cluster.of(namespace);
        let at_once = DeleteParams::default().grace_period(0);
        pods.delete(&name, &at_once).await.unwrap();
    }

    async fn pod_pulls_at_once(&self, namespace: &str, name: &str, pod: &Pod) {
        self.create(namespace, pod).await;
        self.runs(namespace, name).await;
        let events = eventually(POD, "kubelet tells of the pull", async || {
            let events = self.events(namespace, name).await;
            if events.iter().any(|event| event.starts_with("Started")) {
                Ok(events)
            } else {
                Err(format!("{events:?}"))
            }
        })
        .await;
        assert!(
            events
                .iter()
                .any(|event| event.contains("Successfully pulled image")),
            "{events:?}"
        );
        let trouble: Vec<_> = events.iter().filter(|event| is_trouble(event)).collect();
        assert!(trouble.is_empty(), "{trouble:?}");
    }
}

/// Whether an event, as `reason: message`, is about a pull that failed.
pub(crate) fn is_trouble(event: &str) -> bool {
    // by the whole reason: "FailedMount" is about a volume
    ["Failed:", "BackOff:", "FailedToRetrieveImagePullSecret:"]
        .iter()
        .any(|reason| event.starts_with(reason))
}

/// Waits until a pod's state is one of these, or begins with one.
pub(crate) async fn reaches(pods: &Api<Pod>, name: &str, wanted: &[&str]) {
    let what = format!("the state of the pod {name} is one of {wanted:?}");
    eventually(POD, &what, async || {
        let pod = pods.get(name).await.map_err(|error| error.to_string())?;
        let state = state(&pod);
        if wanted.iter().any(|wanted| state.starts_with(wanted)) {
            Ok(())
        } else {
            Err(state)
        }
    })
    .await;
}

/// Where a pod stands: its phase, or why its container waits; one that comes before the others holds these back.
pub(crate) fn state(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let first = status.init_container_statuses.unwrap_or_default();
    let waiting = first
        .into_iter()
        .chain(status.container_statuses.unwrap_or_default())
        .find_map(|container| container.state?.waiting?.reason);
    waiting.unwrap_or_else(|| {
        status
            .phase
            .unwrap_or_else(|| format!("{} has no status", pod.name_any()))
    })
}
