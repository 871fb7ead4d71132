//! The simulator with a typed service, as its documentation shows it: macro, generated client and calls, history in words.

use std::net::SocketAddrV4;
use std::panic::{AssertUnwindSafe, catch_unwind};
use trimaran_rpc::client::{CallError, Client, MethodCall, Reply};
use trimaran_rpc::prelude::*;
use trimaran_rpc::r2p2::Policy;
use trimaran_rpc::sim::{self, AnyRequest, Faults, Net, Sim, SimRng, Workload};

/// Why the bank says no.
#[data]
#[derive(Debug, Clone, PartialEq)]
pub enum NoSuch {
    /// This account.
    Account(String),
}

/// Accounts with whole amounts.
#[derive(Debug, Default, State)]
pub struct Bank {
    accounts: BTreeMap<String, u64>,
}

#[service]
impl Bank {
    /// Pays in, and returns what there is now.
    #[replicated]
    async fn pay(&mut self, _cx: &mut Cx, account: &str, amount: u64) -> Result<u64, NoSuch> {
        let balance = self.accounts.entry(account.to_owned()).or_default();
        *balance += amount;
        Ok(*balance)
    }

    /// Takes it all out.
    #[replicated]
    async fn close(&mut self, _cx: &mut Cx, account: &str) -> Result<u64, NoSuch> {
        self.accounts.remove(account).ok_or_else(|| NoSuch::Account(account.to_owned()))
    }

    #[read]
    async fn balance(&self, _cx: &ReadCx, account: &str) -> Result<u64, NoSuch> {
        self.accounts.get(account).copied().ok_or_else(|| NoSuch::Account(account.to_owned()))
    }
}

fn workload(count: u64) -> Workload<impl FnMut(&mut SimRng) -> AnyRequest> {
    sim::ops(count, |rng| {
        let account = *rng.pick(&["ada", "bob", "eve"]);
        match rng.below(10) {
            0 => BankCalls::close(account).into(),
            1..5 => BankCalls::pay(account, 1 + rng.below(9)).into(),
            _ => BankCalls::balance(account).into(),
        }
    })
}

#[trimaran_rpc::test(seeds = 50)]
async fn linearizable_under_faults(sim: Sim<Bank>) {
    sim.nodes(3).net(Net::lossy(0.01).reorder(0.05).duplicate(0.02));
    sim.faults(Faults::crash_leader().every_ms(50).partition(1));
    let history = sim.clients(4).run(workload(400)).await;
    history.check_linearizable();
    sim.assert_replicas_agree();
}

#[trimaran_rpc::test(seeds = 20)]
async fn typed_clients_are_recorded_too(sim: Sim<Bank>) {
    sim.net(Net::lossy(0.02)).faults(Faults::crash_any().pause(Duration::from_millis(200)));
    let clients = sim.clients(3).deadline(Duration::from_millis(800));
    let history = clients.each(|client: Client, mut me| async move {
        let bank = BankClient::on(client);
        for _ in 0..50 {
            let amount = me.rng.below(5);
            let recording = me.begin(&BankCalls::pay("ada", amount).into());
            let mut end = bank.pay("ada", amount).await;
            // The same call once more: it keeps its name, so it is one operation and applied once.
            if let Err(CallError::Unknown { call_id: Some(id) }) = end {
                end = bank.pay("ada", amount).call_id(id).await;
            }
            recording.end_typed(&end);
            let recording = me.begin(&BankCalls::balance("ada").into());
            recording.end_typed(&bank.balance("ada").await);
            sim::sleep(Duration::from_millis(me.rng.below(8))).await;
        }
    });
    let history = history.await;
    assert_eq!(history.len(), 300);
    history.check_linearizable();
    sim.assert_replicas_agree();
}

/// What any one replica knows, however old.
async fn look(client: &Client, server: SocketAddrV4, request: &AnyRequest) -> Result<Reply, CallError> {
    let (method, body, server) = (request.method, &request.body[..], Some(server));
    let call = MethodCall { method, policy: Policy::FixedRoute, shard: 0, body, server };
    client.call(call, Duration::from_millis(200)).await
}

#[test]
fn a_violation_is_told_in_words_of_the_service() {
    let found = catch_unwind(AssertUnwindSafe(|| {
        sim::run_seeds("typed_stale_reads", 50, |sim: Sim<Bank>| async move {
            let history = sim.clients(3).each(|client, mut me| async move {
                let bank = BankClient::on(client.clone());
                for _ in 0..100 {
                    let recording = me.begin(&BankCalls::pay("ada", 1).into());
                    recording.end_typed(&bank.pay("ada", 1).await);
                    let request = BankCalls::balance("ada").into();
                    let recording = me.begin(&request);
                    let server = *me.rng.pick(&me.servers);
                    recording.end(look(&client, server, &request).await.as_ref());
                }
            });
            history.await.check_linearizable();
        });
    }));
    let told = *found.expect_err("a stale read is not linearizable").downcast::<String>().expect("a message");
    let is_told = told.contains("no place for\n  #") && told.contains("read balance(\"\\x03ada\") -> ");
    assert!(is_told, "{told}");
}
