//! Several processes on one store.

use std::process::{Child, Stdio};

use cloakroom::{
    Limit, Refusal,
    rules::{Created, Rules},
    store::{Query, RedisStore},
};

use super::{
    load::{NOW, sign_in},
    servers::{Server, is_here},
};
use crate::common::again;

const STORE: &str = "CLOAKROOM_TEST_CHILD_STORE";
const REFUSES: &str = "CLOAKROOM_TEST_CHILD_REFUSES";

#[test]
fn i3_limits_hold_for_sign_ins_from_four_processes() {
    if let Ok(address) = std::env::var(STORE) {
        return sign_in_often(&address);
    }
    if !is_here() {
        return;
    }
    for refuses in [false, true] {
        let server = Server::start(&[]);
        let children: Vec<_> = (0..4).map(|_| child(&server.address(), refuses)).collect();
        for child in children {
            assert!(child.wait_with_output().unwrap().status.success());
        }
        block_on(async {
            let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
            for user in ["anna", "bert", "carl"] {
                let page = store.find(&Query::of_user(user), None, 100, NOW).await.unwrap();
                assert_eq!(page.items.len(), 3, "{user}, refusing: {refuses}");
            }
        });
    }
}

fn child(address: &str, refuses: bool) -> Child {
    let mut command = again(module_path!(), "i3_limits_hold_for_sign_ins_from_four_processes");
    command.env(STORE, address).env(REFUSES, refuses.to_string()).stdout(Stdio::null()).spawn().unwrap()
}

/// Never sees more than the limit, and is itself among those that live as long as nobody signs in after it.
fn sign_in_often(address: &str) {
    let refuses = std::env::var(REFUSES).unwrap() == "true";
    let limit = if refuses { Limit::refuse(3) } else { Limit::evict(3) };
    block_on(async {
        let store = Rules::on(RedisStore::open(address).await.unwrap());
        let sign_ins = (0..50).flat_map(|_| ["anna", "bert", "carl"]).map(|user| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut create = sign_in(&store, user);
                create.limit = Some(limit);
                let created = store.create(&create, NOW).await.unwrap();
                let fine = match &created {
                    Created::Created { ended } => ended.len() <= usize::from(!refuses),
                    Created::Refused(refusal) => refuses && *refusal == Refusal::LimitReached { max: 3 },
                };
                assert!(fine, "{created:?}");
                let page = store.find(&Query::of_user(user), None, 100, NOW).await.unwrap();
                assert!(page.items.len() <= 3, "{} live", page.items.len());
            })
        });
        for sign_in in sign_ins.collect::<Vec<_>>() {
            sign_in.await.unwrap();
        }
    });
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work);
}
