use super::*;
use crate::call::{CallName, Json, Principal, PrincipalKind, Rights};
use crate::log::{BLOB_FROM, CallEnded, CallStarted, file};

struct Started {
    queue: mpsc::Sender<Job>,
    health: Arc<Health>,
    thread: JoinHandle<()>,
}

fn writer(dir: &std::path::Path) -> Writer {
    Writer::new(file::connect(dir).unwrap(), Arc::new(Blobs::open(dir).unwrap())).unwrap()
}

fn start(writer: Writer) -> Started {
    let (queue, jobs) = mpsc::channel(QUEUE);
    Started {
        queue,
        health: writer.health(),
        thread: writer.start(jobs).unwrap(),
    }
}

fn job(work: Work) -> (Job, oneshot::Receiver<Result<Receipt>>) {
    let (answer, waiting) = oneshot::channel();
    (Job { work, answer }, waiting)
}

fn append(run: &str, body: &str) -> Work {
    let body = Body::Json(Json::of(body).unwrap());
    Work::Append(Append::one(
        run,
        NewEvent {
            kind: "test.event",
            call: None,
            body,
            record: None,
        },
    ))
}

impl Started {
    fn ask(&self, work: Work) -> Result<Receipt> {
        let (job, waiting) = job(work);
        self.queue.blocking_send(job).unwrap();
        waiting.blocking_recv().unwrap()
    }
}

#[test]
fn everything_queued_goes_into_one_commit_and_a_refusal_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path());
    let (tip, health) = (writer.tip(), writer.health());
    let (queue, jobs) = mpsc::channel(QUEUE);
    let mut waiting = Vec::new();
    for number in 0..BATCH {
        let mut work = append("r", "x");
        if number == 500 {
            let Work::Append(append) = &mut work else {
                panic!("an append")
            };
            append.expected_seq = Some(7);
        }
        let (job, answer) = job(work);
        queue.try_send(job).unwrap();
        waiting.push(answer);
    }
    drop(queue);
    writer.start(jobs).unwrap().join().unwrap();
    assert_eq!(health.commits(), 1);
    let answers: Vec<_> = waiting
        .into_iter()
        .map(|answer| answer.blocking_recv().unwrap())
        .collect();
    let seqs: Vec<u64> = answers.iter().flatten().map(|receipt| receipt.seq).collect();
    assert_eq!(seqs, (1..1024).collect::<Vec<u64>>());
    assert_eq!(
        answers[500].as_ref().unwrap_err().message,
        "stream `r` ends at 500, not at 7: read what was added, then append again"
    );
    assert_eq!(*tip.borrow(), Cursor(1023));
}

/// The end of a read.
fn read() -> Work {
    let principal = Principal {
        project: "p".into(),
        run: None,
        kind: PrincipalKind::Agent,
        id: "a".into(),
        rights: Rights::all(),
    };
    let call = CallStarted {
        name: CallName::new("fsEvent", Some("readFile")),
        principal: Arc::new(principal),
        environment: None,
        effect: Effect::Read,
        rule: "default".into(),
        message: Json::null(),
        index: None,
        parent: None,
    };
    let end = CallEnded {
        call,
        attempts: Vec::new(),
        result: Ok(Json::null()),
        micros: 1,
    };
    let body = Body::CallEnded(Box::new(end));
    Work::Append(Append::one(
        "r",
        NewEvent {
            kind: "call.ended",
            call: None,
            body,
            record: None,
        },
    ))
}

#[test]
fn reads_wait_for_more_until_somebody_waits_for_the_batch() {
    let long = Duration::from_secs(3600);
    let (queue, mut jobs) = mpsc::channel(QUEUE);
    let send = |work| queue.try_send(job(work).0).unwrap();
    let mut batch = vec![job(read()).0];
    send(read());
    gather(&mut jobs, &mut batch, Duration::ZERO);
    assert_eq!(batch.len(), 2, "the time is over");

    send(append("r", "x"));
    send(read());
    gather(&mut jobs, &mut batch, long);
    assert_eq!(batch.len(), 4, "one of them is waited for");

    let mut batch = vec![job(append("r", "x")).0];
    gather(&mut jobs, &mut batch, long);
    assert_eq!(batch.len(), 1, "it was from the start");

    let mut batch = vec![job(read()).0];
    let me = thread::current();
    let (later, patient) = (queue.clone(), job(append("r", "x")).0);
    let other = thread::spawn(move || {
        later.blocking_send(patient).unwrap();
        me.unpark();
    });
    gather(&mut jobs, &mut batch, long);
    assert_eq!(batch.len(), 2, "it came while the others waited");
    other.join().unwrap();

    for _ in 0..BATCH {
        send(read());
    }
    gather(&mut jobs, &mut Vec::new(), long);
    drop(queue);
    gather(&mut jobs, &mut vec![job(read()).0], long);
}

#[test]
fn a_full_disk_ends_the_log_with_its_first_failure() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path());
    let tip = writer.tip();
    let pages: i64 = writer
        .connection
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    writer
        .connection
        .query_row(&format!("PRAGMA max_page_count = {}", pages + 4), [], |_| Ok(()))
        .unwrap();
    let started = start(writer);
    let mut durable = 0;
    let error = loop {
        match started.ask(append("r", &"x".repeat(BLOB_FROM / 4))) {
            Ok(receipt) => durable = receipt.seq,
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind, error.blame), (ErrorKind::Unavailable, Blame::Operator));
    assert_eq!(
        error.message,
        "the event log takes nothing more since a write failed (database or disk is full): give the disk of the \
         state directory room or repair it, then restart the hub"
    );
    assert!(durable > 0);
    assert_eq!(*tip.borrow(), Cursor(durable));
    // A small one would fit; it is refused all the same, with the same words.
    assert_eq!(started.ask(append("other", "x")).unwrap_err().message, error.message);
    assert_eq!(started.health.failure().unwrap().message, error.message);
    drop(started.queue);
    started.thread.join().unwrap();
    let count: u64 = file::connect(dir.path())
        .unwrap()
        .query_row("SELECT count(*) FROM event", [], |row| row.get(0).map(unsigned))
        .unwrap();
    assert_eq!(count, durable);
}

#[test]
fn a_payload_that_cannot_be_kept_leaves_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let started = start(writer(dir.path()));
    std::fs::remove_dir(dir.path().join("blobs")).unwrap();
    std::fs::write(dir.path().join("blobs"), "in the way").unwrap();
    let error = started.ask(append("r", &"x".repeat(BLOB_FROM))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    drop(started.queue);
    started.thread.join().unwrap();
    let count = "SELECT count(*) FROM event";
    let count: i64 = file::connect(dir.path())
        .unwrap()
        .query_row(count, [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 0);
}

#[test]
fn numbers_go_on_after_the_streams_were_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path());
    let mut batch = vec![job(append("r", "x")).0];
    writer.commit(&mut batch);
    for stream in 0..=STREAMS {
        writer.order.seqs.insert(stream.to_string().into(), 9);
    }
    let (again, answer) = job(append("r", "x"));
    writer.commit(&mut vec![again]);
    assert_eq!(answer.blocking_recv().unwrap().unwrap().seq, 2);
    assert_eq!(writer.order.seqs.len(), 1);
}
