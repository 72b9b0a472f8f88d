//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::server::Handler;
use crate::{admission, decision, footprint, instructions, nodes, pods, report, server};

/// Measures what Pullpass promises about its speed
#[derive(Debug, Parser)]
pub(crate) struct Command {
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// CPU per review over TLS, beside a null server and a Go webhook (P1, P2)
    Admission {
        /// How often each server is measured
        #[arg(long, default_value_t = 9)]
        rounds: usize,
    },
    /// Instructions per byte of review (P3)
    Instructions,
    /// Pods created per second on a real API server (P4)
    Pods {
        /// How often each case is measured
        #[arg(long, default_value_t = 9)]
        rounds: usize,
    },
    /// Memory, and time until it is ready, with 10,000 namespaces (P5)
    Footprint {
        /// How often the webhook is started
        #[arg(long, default_value_t = 5)]
        starts: usize,
    },
    /// From a changed credential to the node's file, and calls of the plugin (P10)
    Nodes {
        /// How often the credential is changed
        #[arg(long, default_value_t = 20)]
        changes: usize,
        /// How often the plugin is called
        #[arg(long, default_value_t = 200)]
        calls: usize,
    },
    /// Serves reviews until it is killed
    #[command(hide = true)]
    Serve {
        handler: Handler,
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        certificates: PathBuf,
    },
    /// Decides on a review many times
    #[command(hide = true)]
    Decide {
        review: PathBuf,
        #[arg(long)]
        times: u32,
    },
}

impl Command {
    /// Does what was asked; without a part, all of them.
    pub(crate) fn run(self) -> Result<()> {
        let parts = match self.part {
            None => vec![
                Part::Instructions,
                Part::Admission { rounds: 9 },
                Part::Pods { rounds: 9 },
                Part::Footprint { starts: 5 },
                Part::Nodes {
                    changes: 20,
                    calls: 200,
                },
            ],
            Some(part) => vec![part],
        };
        let mut measured = Vec::new();
        for part in parts {
            let section = match part {
                Part::Serve {
                    handler,
                    listen,
                    certificates,
                } => return server::serve(handler, listen, &certificates),
                Part::Decide { review, times } => return decision::decide(&review, times),
                Part::Admission { rounds } => admission::measure(rounds)?,
                Part::Instructions => instructions::measure()?,
                Part::Pods { rounds } => pods::measure(rounds)?,
                Part::Footprint { starts } => footprint::measure(starts)?,
                Part::Nodes { changes, calls } => nodes::measure(changes, calls)?,
            };
            section.keep()?;
            measured.push(section);
        }
        report::publish()?;
        measured
            .iter()
            .filter(|section| section.part == instructions::PART)
            .try_for_each(instructions::check)
    }
}
