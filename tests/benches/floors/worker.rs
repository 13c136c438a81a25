//! What the second wall costs: a call into a worker process, beside the same call in the hub's process.

use std::time::Instant;

use waypost::plugin::worker::probe;

use crate::Outcome;
use crate::caller::{Caller, with_reader};
use crate::harness::{Open, Project, binary};
use crate::pairs::{Medians, median, pairs};
use crate::report::{Figure, Target};
use crate::shown::STARTS;

pub(crate) async fn figures() -> Outcome<Vec<Figure>> {
    let project = with_reader(Project::new(), "here", "in-process");
    let open = with_reader(project, "there", "worker").open().await;
    let (here, there) = (Caller::new(&open, "here")?, Caller::new(&open, "there")?);
    // Where calls run in a hub: on the threads of its runtime.
    let measured = tokio::spawn(async move {
        let one = pairs(|| here.call(), || there.call()).await?;
        let many = pairs(|| here.turn(), || there.turn()).await?;
        Outcome::Ok((one, many))
    });
    let (one, many) = measured.await??;
    let many = Medians {
        raw: Caller::each(many.raw),
        ours: Caller::each(many.ours),
    };
    let start = start(&open).await?;
    drop(open.close().await);
    let inside = "in the hub's process";
    Ok(vec![
        Figure::time("call into a worker process", inside, one).at_most(Target::MicrosAbove(60.0)),
        Figure::time("the same, 64 in flight", inside, many).at_most(Target::Ratio(2.5)),
        Figure::time(
            "a worker process, from start over ready to gone",
            "`waypost --version`",
            start,
        ),
    ])
}

/// A worker process without a plugin: started, confined, ready, and ended again.
async fn start(open: &Open) -> Outcome<Medians> {
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let began = Instant::now();
        binary::waypost(open.root()).arg("--version").output()?;
        raw.push(began.elapsed().as_secs_f64() * 1e9);
        let began = Instant::now();
        probe(&open.hub.config, &open.hub.state()).await?;
        ours.push(began.elapsed().as_secs_f64() * 1e9);
    }
    Ok(Medians {
        raw: median(raw),
        ours: median(ours),
    })
}
