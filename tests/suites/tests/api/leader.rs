//! Two controllers, of which one leads: what the other takes over, and that the two never write against each other.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use kube::Api;
use pullpass_harness::audit::AuditLog;
use pullpass_harness::daemons::Daemon;
use pullpass_harness::objects::{PULL_SECRET, SYSTEM_NAMESPACE};
use pullpass_harness::{Lease, eventually, lease, stays};
use pullpass_suites::copies::{CONVERGENCE, has_login};
use pullpass_suites::registries;

use crate::controller_writes::{controllers_writes, summaries};

const HOST: &str = "registry.example.com";
const TEAMS: usize = 3;

/// A dead leader's Lease has to run out first.
const TAKE_OVER: Duration = Duration::from_secs(60);

struct Scene {
    server: Lease,
    teams: Vec<String>,
    controllers: BTreeMap<String, Daemon>,
}

async fn scene() -> Scene {
    let server = lease().await;
    server.apply_chart().await;
    registries::write_source(&server, "acme", "user", "first").await;
    registries::create(&server, &registries::private("acme", HOST, &["team*"])).await;
    let mut controllers = BTreeMap::new();
    for identity in ["one", "two"] {
        let daemon = server.start_controller(identity, &[]).await;
        controllers.insert(identity.to_owned(), daemon);
    }
    let mut teams = Vec::new();
    for _ in 0..TEAMS {
        teams.push(server.namespace("team").await);
    }
    let scene = Scene {
        server,
        teams,
        controllers,
    };
    scene.all_have("first").await;
    scene
}

impl Scene {
    async fn all_have(&self, password: &str) {
        // in the own namespace, too, is a Secret for installers
        let own = SYSTEM_NAMESPACE.to_owned();
        for namespace in self.teams.iter().chain([&own]) {
            has_login(&self.server, namespace, HOST, "user", password).await;
        }
    }

    async fn holder(&self) -> Result<String, String> {
        let leases: Api<LeaseObject> = self.server.of(SYSTEM_NAMESPACE);
        let lease = leases
            .get("pullpass-controller")
            .await
            .map_err(|error| error.to_string())?;
        lease
            .spec
            .and_then(|spec| spec.holder_identity)
            .filter(|holder| !holder.is_empty())
            .ok_or("nobody holds it".to_owned())
    }

    async fn leader(&self) -> String {
        eventually(CONVERGENCE, "somebody leads", async || self.holder().await).await
    }

    async fn is_led_by_another_than(&self, former: &str) {
        eventually(TAKE_OVER, "the other takes over", async || {
            let holder = self.holder().await?;
            if holder == former {
                Err(format!("{holder} holds it"))
            } else {
                Ok(())
            }
        })
        .await;
    }
}

/// Waits until each copy was written as often as the password was changed, and watches that it stays at that.
async fn writes_each_copy(scene: &Scene, audit: &AuditLog, times: usize, during: Duration) {
    let expected: BTreeMap<String, usize> = scene
        .teams
        .iter()
        .map(String::as_str)
        // what installers in Pullpass's own namespace log in with
        .chain([SYSTEM_NAMESPACE])
        .map(|namespace| (namespace.to_owned(), times))
        .collect();
    let counted = async || {
        let writes: Vec<_> = controllers_writes(audit)
            .into_iter()
            .filter(|entry| entry.name() == PULL_SECRET && entry.resource() == "secrets")
            .collect();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for write in &writes {
            *counts.entry(write.namespace().to_owned()).or_default() += 1;
        }
        if counts == expected {
            Ok(())
        } else {
            Err(summaries(&writes).join(", "))
        }
    };
    // an answer is in the audit log a little after its effect can be seen
    eventually(CONVERGENCE, "each copy is written", counted).await;
    stays(during, "each copy is written no more often", counted).await;
}

#[tokio::test]
async fn only_one_of_two_writes() {
    let scene = scene().await;
    let audit = scene.server.audit();
    registries::write_source(&scene.server, "acme", "user", "second").await;
    scene.all_have("second").await;
    writes_each_copy(&scene, &audit, 1, Duration::from_secs(3)).await;
}

#[tokio::test]
async fn when_the_leader_is_killed_the_other_takes_over() {
    let mut scene = scene().await;
    let leader = scene.leader().await;
    scene.controllers.remove(&leader).unwrap().kill();
    let audit = scene.server.audit();
    registries::write_source(&scene.server, "acme", "user", "second").await;
    scene.is_led_by_another_than(&leader).await;
    scene.all_have("second").await;
    writes_each_copy(&scene, &audit, 1, Duration::from_secs(3)).await;
}

#[tokio::test]
async fn a_leader_that_ends_in_order_hands_over_at_once() {
    let mut scene = scene().await;
    let leader = scene.leader().await;
    scene.controllers.remove(&leader).unwrap().terminate().await;
    // it has given the Lease back, whoever holds it now
    assert_ne!(scene.holder().await.ok().as_deref(), Some(leader.as_str()));
    scene.is_led_by_another_than(&leader).await;
    registries::write_source(&scene.server, "acme", "user", "second").await;
    scene.all_have("second").await;
}

#[tokio::test]
async fn a_leader_that_froze_does_not_write_against_its_successor() {
    let scene = scene().await;
    let leader = scene.leader().await;
    // longer than its Lease
    scene.controllers[&leader].freeze(Duration::from_secs(20));
    let audit = scene.server.audit();
    registries::write_source(&scene.server, "acme", "user", "second").await;
    scene.is_led_by_another_than(&leader).await;
    scene.all_have("second").await;
    registries::write_source(&scene.server, "acme", "user", "third").await;
    scene.all_have("third").await;
    // it wakes up with "second" as the last that it has to write
    writes_each_copy(&scene, &audit, 2, Duration::from_secs(12)).await;
    scene.all_have("third").await;
}
