//! What the record of a claim says when its release and the next grant cross, and when nobody waits for either.

use super::*;

/// A hub whose log writes what it is permitted to.
fn slow() -> (Hub, Arc<Slow>) {
    let memory = Arc::new(MemoryLog::new(100));
    let slow = Arc::new(Slow(memory.clone(), Semaphore::new(1)));
    let gateway = Arc::new(Gateway::new(slow.clone()));
    (Hub { gateway, log: memory }, slow)
}

/// The state and the epoch in the record of the connection `a`.
async fn record(hub: &Hub) -> (String, u64) {
    let record = hub.log.record(Noun::Claim, "p/connection:a").await.unwrap().unwrap();
    let body = record.body.to::<serde_json::Value>().unwrap();
    (record.state, body["epoch"].as_u64().unwrap())
}

#[tokio::test]
async fn a_release_is_recorded_also_when_nobody_waits_for_it() {
    let (hub, slow) = slow();
    let (a, _) = hub.attach("a");
    assert_eq!(hub.claim(&a, &["*"]).await, Ok(1));
    let mut release = Box::pin(hub.gateway.relinquish(&a, PROJECT));
    assert!(futures::poll!(&mut release).is_pending());
    tokio::task::yield_now().await;
    drop(release);
    slow.1.add_permits(1);
    hub.logged(2).await;
    assert_eq!(record(&hub).await, ("free".to_owned(), 1));
}

#[tokio::test]
async fn what_is_released_while_a_grant_is_written_does_not_take_its_record() {
    let (hub, slow) = slow();
    let (a, _) = hub.attach("a");
    assert_eq!(hub.claim(&a, &["inference"]).await, Ok(1));
    let mut claim = Box::pin(hub.claim(&a, &["fsEvent"]));
    assert!(futures::poll!(&mut claim).is_pending());
    tokio::task::yield_now().await;
    let release = hub.gateway.relinquish(&a, PROJECT);
    slow.1.add_permits(2);
    let (claimed, released) = futures::join!(claim, release);
    assert_eq!((claimed, released), (Ok(2), Ok(())));
    assert_eq!(hub.claimer("fsEvent").as_deref(), Some("connection:a"));
    assert_eq!(record(&hub).await, ("held".to_owned(), 2));
}
