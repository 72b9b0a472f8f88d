//! The webhook's server against a null server of the same stack, and against the same job in Go.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::load::{self, Measured};
use crate::process::Processors;
use crate::report::{self, Bound, Section, Unit};
use crate::reviews::Size;
use crate::server::Handler;
use crate::statistics::Spread;
use crate::tls::Identity;
use crate::webhook::{self, Webhook};

/// Requests in flight: about as many as an API server sends under load, and enough that the server never idles.
const CONNECTIONS: usize = 16;

/// Each of the rounds and servers is measured for so long: a thousand ticks of the clock that processor time is
/// counted with are ten seconds, and a hundredth is exact enough.
const DURATION: Duration = Duration::from_secs(2);

/// What P1 allows over the null server.
fn promised(size: Size) -> f64 {
    match size {
        Size::Small => 1.35,
        Size::Typical => 1.6,
        Size::Big => 2.0,
    }
}

/// What P2 allows of the Go webhook's.
const OF_GO: f64 = 0.25;

/// Measures in `rounds` rounds.
pub(crate) fn measure(rounds: usize) -> Result<Section> {
    report::say("building the Go webhook");
    let go = webhook::build_go()?;
    let before = rustix::thread::sched_getaffinity(None)?;
    let mut section = Section::new(
        "admission",
        "Admission over TLS",
        &format!(
            "Each server is a process of its own on a processor of its own, with the load on the others; {CONNECTIONS} \
             kept HTTP/1.1 connections, each with one request after the other. In every round each server is measured for \
             {} s, in turns; ratios are those of one round.",
            DURATION.as_secs()
        ),
    );
    let processors = Processors::divide()?;
    // one thread, on whichever of the processors that are left is free
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let measured = runtime.block_on(compare(rounds, go.as_deref(), processors, &mut section));
    rustix::thread::sched_setaffinity(None, &before)?;
    measured.map(|()| section)
}

async fn compare(
    rounds: usize,
    go: Option<&Path>,
    processors: Processors,
    section: &mut Section,
) -> Result<()> {
    let identity = Identity::issue()?;
    let mut webhooks = vec![
        webhook::start_server(Handler::Null, &identity, processors).await?,
        webhook::start_server(Handler::Pullpass, &identity, processors).await?,
    ];
    if let Some(program) = go {
        webhooks.push(webhook::start_go(program, &identity, processors).await?);
    }
    for size in Size::ALL {
        report::say(&format!("reviews over kept connections: {}", size.as_str()));
        let review = size.read()?;
        let figures = interleave(&webhooks, rounds, async |webhook| {
            let request = webhook.request(&review);
            load::keep_alive(
                &webhook.target,
                &webhook.process,
                &request,
                CONNECTIONS,
                DURATION,
            )
            .await
        })
        .await?;
        requests(section, size, &figures)?;
    }
    report::say("new connections");
    let review = Size::Small.read()?;
    let figures = interleave(&webhooks, rounds, async |webhook| {
        let request = webhook.request(&review);
        load::handshakes(
            &webhook.target,
            &webhook.process,
            &request,
            CONNECTIONS,
            DURATION,
        )
        .await
    })
    .await?;
    handshakes(section, &figures)
}

type Figures = BTreeMap<&'static str, Vec<Measured>>;

/// Measures each webhook once a round. The order turns from round to round, so that none always comes after the same.
async fn interleave(
    webhooks: &[Webhook],
    rounds: usize,
    measure: impl AsyncFn(&Webhook) -> Result<Measured>,
) -> Result<Figures> {
    let mut figures = Figures::new();
    for round in 0..rounds {
        let (before, after) = webhooks.split_at(round % webhooks.len());
        for webhook in after.iter().chain(before) {
            let measured = measure(webhook)
                .await
                .with_context(|| format!("the {} webhook", webhook.name))?;
            figures.entry(webhook.name).or_default().push(measured);
        }
    }
    Ok(figures)
}

fn column(figures: &Figures, name: &str, of: impl Fn(&Measured) -> f64) -> Option<Vec<f64>> {
    figures
        .get(name)
        .map(|rounds| rounds.iter().map(of).collect())
}

fn requests(section: &mut Section, size: Size, figures: &Figures) -> Result<()> {
    let cpu = |name: &str| column(figures, name, Measured::cpu_micros);
    let (null, pullpass) = (cpu("null"), cpu("pullpass"));
    let (Some(null), Some(pullpass)) = (null, pullpass) else {
        anyhow::bail!("a server was not measured");
    };
    let size_name = size.as_str();
    section.push(
        "P1",
        format!("CPU per request, {size_name}: Pullpass / null server"),
        Unit::Ratio,
        Spread::of_ratios(&pullpass, &null)?,
        Some(Bound::AtMost(promised(size))),
    );
    if let Some(go) = cpu("go") {
        section.push(
            "P2",
            format!("CPU per request, {size_name}: Pullpass / Go webhook"),
            Unit::Ratio,
            Spread::of_ratios(&pullpass, &go)?,
            Some(Bound::AtMost(OF_GO)),
        );
    }
    for &name in figures.keys() {
        if let (Some(cpu), Some(busy)) = (
            cpu(name),
            column(figures, name, |round| round.utilisation() * 100.0),
        ) {
            section.push(
                "",
                format!("CPU per request, {size_name}, {name}"),
                Unit::Micros,
                Spread::of(&cpu)?,
                None,
            );
            section.push(
                "",
                format!("… with its processor busy, {size_name}, {name}"),
                Unit::Percent,
                Spread::of(&busy)?,
                None,
            );
        }
    }
    Ok(())
}

fn handshakes(section: &mut Section, figures: &Figures) -> Result<()> {
    for &name in figures.keys() {
        if let Some(rate) = column(figures, name, Measured::per_cpu_second) {
            section.push(
                "P1",
                format!(
                    "new connections with one small review, per second of one processor, {name}"
                ),
                Unit::PerSecond,
                Spread::of(&rate)?,
                None,
            );
        }
    }
    Ok(())
}
