//! What the chart's roles for people allow: tenants see what they have, and nobody hands out credentials unasked.

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::api::PostParams;
use kube::{Api, Client};
use pullpass_harness::attempt::Attempt;
use pullpass_harness::objects::SYSTEM_NAMESPACE;
use pullpass_harness::{Lease, eventually, lease};
use pullpass_suites::copies::CONVERGENCE;
use serde_json::{Value, json};

const REGISTRIES: &str = "/apis/pullpass.dev/v1alpha1/registries";

async fn bind(server: &Lease, role: &str, user: &str, namespace: Option<&str>) {
    let kind = if namespace.is_some() {
        "RoleBinding"
    } else {
        "ClusterRoleBinding"
    };
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    match namespace {
        Some(namespace) => {
            let api: Api<RoleBinding> = server.of(namespace);
            let binding = serde_json::from_value(binding).unwrap();
            api.create(&PostParams::default(), &binding).await.unwrap();
        }
        None => {
            let api: Api<ClusterRoleBinding> = server.all();
            let binding = serde_json::from_value(binding).unwrap();
            api.create(&PostParams::default(), &binding).await.unwrap();
        }
    }
}

/// Roles are aggregated and learned of a little after they were stored.
async fn may(who: &Client, attempt: &Attempt) {
    eventually(CONVERGENCE, "the right is in force", async || {
        let outcome = attempt.by(who).await;
        if outcome.succeeded() {
            Ok(())
        } else {
            Err(format!("{attempt}: {outcome:?}"))
        }
    })
    .await;
}

async fn may_not(who: &Client, attempts: &[Attempt]) {
    for attempt in attempts {
        let outcome = attempt.by(who).await;
        assert_eq!(outcome.code, 403, "{attempt}: {outcome:?}");
    }
}

fn registry() -> Value {
    json!({
        "apiVersion": "pullpass.dev/v1alpha1", "kind": "Registry", "metadata": {"name": "acme"},
        "spec": {"host": "registry.example.com", "auth": {"basic": {"secretRef": {"name": "acme"}}},
            "access": {"namespaces": {"include": ["*"]}}},
    })
}

fn access(namespace: &str) -> String {
    format!("/apis/pullpass.dev/v1alpha1/namespaces/{namespace}/pullaccesses")
}

#[tokio::test]
async fn tenants_see_what_they_have_and_change_nothing() {
    let server = lease().await;
    server.apply_chart().await;
    let own = server.namespace("team").await;
    let foreign = server.namespace("team").await;
    for role in ["view", "edit", "admin"] {
        bind(&server, role, role, Some(&own)).await;
        let tenant = server.as_user(role, &[]);
        may(&tenant, &Attempt::get(access(&own))).await;
        let object = json!({"apiVersion": "pullpass.dev/v1alpha1", "kind": "PullAccess", "metadata": {"name": "pullpass"},
            "secret": {"name": "pullpass", "state": "Written", "reason": "Written"}, "registries": []});
        may_not(
            &tenant,
            &[
                Attempt::get(access(&foreign)),
                Attempt::post(access(&own), &object),
                Attempt::merge(
                    format!("{}/pullpass", access(&own)),
                    &json!({"registries": []}),
                ),
                Attempt::delete(format!("{}/pullpass", access(&own))),
                Attempt::get(REGISTRIES),
                Attempt::post(REGISTRIES, &registry()),
                Attempt::merge(
                    format!("{REGISTRIES}/acme"),
                    &json!({"spec": {"priority": 1}}),
                ),
                Attempt::get(format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/secrets")),
            ],
        )
        .await;
    }
}

#[tokio::test]
async fn the_administrators_role_writes_registries_and_the_viewers_reads_them() {
    let server = lease().await;
    server.apply_chart().await;
    bind(&server, "pullpass-admin", "manager", None).await;
    bind(&server, "pullpass-viewer", "auditor", None).await;
    let manager = server.as_user("manager", &[]);
    let auditor = server.as_user("auditor", &[]);
    may(&manager, &Attempt::post(REGISTRIES, &registry())).await;
    may(&auditor, &Attempt::get(format!("{REGISTRIES}/acme"))).await;
    may(
        &auditor,
        &Attempt::get("/apis/pullpass.dev/v1alpha1/pullaccesses"),
    )
    .await;
    let change = json!({"spec": {"priority": 1}});
    let one = format!("{REGISTRIES}/acme");
    may_not(
        &auditor,
        &[
            Attempt::merge(&one, &change),
            Attempt::delete(&one),
            Attempt::post(REGISTRIES, &registry()),
        ],
    )
    .await;
    may(&manager, &Attempt::merge(&one, &change)).await;
    // neither leads to a credential, nor does the status lie
    let status = Attempt::merge(
        format!("{one}/status"),
        &json!({"status": {"conditions": []}}),
    );
    for person in [&manager, &auditor] {
        may_not(
            person,
            &[
                status.clone(),
                Attempt::get(format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/secrets")),
            ],
        )
        .await;
    }
    may(&manager, &Attempt::delete(&one)).await;
}
