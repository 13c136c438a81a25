//! Random orders of claims, releases, requests and replies against a model that fits on a screen.

use proptest::prelude::*;

use super::*;

const SCOPES: [&[&str]; 4] = [&["*"], &["a"], &["a:x"], &["b"]];
const NAMES: [&str; 3] = ["a:x", "a:y", "b"];

#[derive(Clone, Debug)]
enum Step {
    Claim(usize, usize),
    Relinquish(usize),
    Reattach(usize),
    Ask(usize),
    Reply(usize, usize),
    GiveUp(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3usize, 0..SCOPES.len()).prop_map(|(who, scope)| Step::Claim(who, scope)),
        (0..3usize).prop_map(Step::Relinquish),
        (0..3usize).prop_map(Step::Reattach),
        (0..NAMES.len()).prop_map(Step::Ask),
        (0..3usize, 0..6usize).prop_map(|(who, request)| Step::Reply(who, request)),
        (0..6usize).prop_map(Step::GiveUp),
    ]
}

/// What the model knows of one request.
struct Asked {
    id: String,
    holder: usize,
    attachment: u64,
    cancel: CancellationToken,
    task: Option<JoinHandle<Result<Json, CallError>>>,
    /// Why another reply would be refused; none while it waits.
    ended: Option<Rejection>,
}

struct World {
    hub: Hub,
    peers: Vec<(Attached, mpsc::Receiver<Uuid>)>,
    /// The scope and epoch that each holds.
    held: [Option<(usize, u64)>; 3],
    epoch: u64,
    asked: Vec<Asked>,
}

impl World {
    fn new() -> Self {
        let hub = Hub::new();
        let peers = (0..3).map(|who| hub.attach(&format!("c{who}"))).collect();
        Self {
            hub,
            peers,
            held: [None; 3],
            epoch: 0,
            asked: Vec::new(),
        }
    }

    fn holder_of(&self, name: &str) -> Option<usize> {
        let name = name.parse().unwrap();
        let covers = |scope: usize| SCOPES[scope].iter().any(|pattern| crate::call::covers(pattern, &name));
        self.held
            .iter()
            .position(|held| held.is_some_and(|(scope, _)| covers(scope)))
    }

    /// Scopes of the model meet when they share one of its names, or are the same.
    fn meet(one: usize, other: usize) -> bool {
        let covers = |scope: usize, name: &&str| {
            SCOPES[scope]
                .iter()
                .any(|pattern| crate::call::covers(pattern, &name.parse().unwrap()))
        };
        NAMES.iter().any(|name| covers(one, name) && covers(other, name))
    }

    /// The lease of one has ended: so have its requests.
    async fn lease_ended(&mut self, who: usize) {
        self.held[who] = None;
        for asked in self
            .asked
            .iter_mut()
            .filter(|asked| asked.holder == who && asked.ended.is_none())
        {
            asked.ended = Some(Rejection::Stale);
            let error = asked.task.take().unwrap().await.unwrap().unwrap_err();
            assert_eq!(error.kind, ErrorKind::Indeterminate);
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Claim(who, scope) => {
                let others = (0..3).filter(|other| *other != who);
                let conflict = others
                    .filter_map(|other| self.held[other])
                    .any(|held| Self::meet(held.0, scope));
                let outcome = self.hub.claim(&self.peers[who].0, SCOPES[scope]).await;
                match (conflict, self.held[who]) {
                    (true, _) => assert_eq!(outcome.unwrap_err().kind, ErrorKind::Denied),
                    (false, Some((same, epoch))) if same == scope => assert_eq!(outcome, Ok(epoch)),
                    (false, _) => {
                        self.lease_ended(who).await;
                        let epoch = outcome.unwrap();
                        assert!(epoch > self.epoch);
                        self.epoch = epoch;
                        self.held[who] = Some((scope, epoch));
                    }
                }
            }
            Step::Relinquish(who) => {
                let outcome = self.hub.gateway.relinquish(&self.peers[who].0, PROJECT).await;
                assert_eq!(outcome.is_ok(), self.held[who].is_some());
                self.lease_ended(who).await;
            }
            Step::Reattach(who) => {
                self.peers[who] = self.hub.attach(&format!("c{who}"));
                self.lease_ended(who).await;
            }
            Step::Ask(name) => {
                let call = call(NAMES[name]);
                let cancel = call.cancel.clone();
                let task = self.hub.proxy(call);
                let Some(holder) = self.holder_of(NAMES[name]) else {
                    assert_eq!(task.await.unwrap().unwrap_err().kind, ErrorKind::Unavailable);
                    return;
                };
                let id = self.peers[holder].1.recv().await.unwrap().to_string();
                let attachment = self.peers[holder].0.attachment.number;
                self.asked.push(Asked {
                    id,
                    holder,
                    attachment,
                    cancel,
                    task: Some(task),
                    ended: None,
                });
            }
            Step::Reply(who, request) => {
                let Some(asked) = self.asked.iter_mut().rev().nth(request) else {
                    return;
                };
                let from = &self.peers[who].0;
                let expected = if from.attachment.number != asked.attachment {
                    Err(Rejection::Foreign)
                } else {
                    asked.ended.map_or(Ok(()), Err)
                };
                assert_eq!(self.hub.gateway.reply(from, &asked.id, Ok(json("1"))), expected);
                if expected.is_ok() {
                    asked.ended = Some(Rejection::Duplicate);
                    assert_eq!(asked.task.take().unwrap().await.unwrap(), Ok(json("1")));
                }
            }
            Step::GiveUp(request) => {
                let Some(asked) = self.asked.iter_mut().rev().nth(request) else {
                    return;
                };
                if asked.ended.is_none() {
                    asked.ended = Some(Rejection::Late);
                    asked.cancel.cancel();
                    let error = asked.task.take().unwrap().await.unwrap().unwrap_err();
                    assert_eq!(error.kind, ErrorKind::Indeterminate);
                }
            }
        }
    }

    fn check(&self) {
        for name in NAMES {
            let holder = self.holder_of(name).map(|who| format!("connection:c{who}"));
            assert_eq!(self.hub.claimer(name), holder);
        }
        let stats = self.hub.gateway.stats();
        assert_eq!(stats.claims, self.held.iter().flatten().count());
        assert_eq!(
            stats.pending,
            self.asked.iter().filter(|asked| asked.ended.is_none()).count()
        );
        assert_eq!(stats.attached, 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_gateway_does_what_its_model_does(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.take(step).await;
                world.check();
            }
        });
    }
}
