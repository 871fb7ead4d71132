//! Several cores over the kernel's sockets: each with a port, a capture and losses of its own, joined by a mesh.

use super::{Between, Capture, EARLY_PACKETS, PortPlan};
use crate::program::connect::{net_error, runtime_error};
use crate::program::error::Error;
use std::future::Future;
use trimaran_net::{Net, NetConfig, NetDriver, Packet, Port, Steering, Tap, UdpConfig, UdpPort};
use trimaran_runtime::{CoreConfig, CoreFailure, Doorbell, Failure, Runtime, mesh};

/// Packets that may be on their way from one core to another.
const CROSSING_PACKETS: usize = 1024;

impl PortPlan {
    /// Opens a port for each core and runs `main` over it, each on a thread of its own; returns when all have ended. One that fails
    /// ends the others. A packet that arrives at one core and is another's crosses to it.
    ///
    /// # Errors
    /// The first failure: that of a `main`, or those of the environment, E01xx. A device of DPDK's serves one core (E0215).
    pub fn run_several<F, T>(
        &self,
        cores: Vec<CoreConfig>,
        between: &Between,
        steering: &Steering,
        main: impl Fn(usize, Net) -> F + Clone + Send + 'static,
    ) -> Result<Vec<T>, Error>
    where
        F: Future<Output = Result<T, Error>> + 'static,
        T: Send + 'static,
    {
        let PortPlan::Udp { payload_bytes } = *self else {
            return Err(Error::Usage {
                problem: format!("a device of DPDK's serves one core, and there are {}", cores.len()),
                help: "write `count = 1` in [cores]: one core serves all shards; or use the port \"udp\"".into(),
            });
        };
        let open = move || UdpPort::new(UdpConfig { payload_bytes }).map_err(net_error);
        let (capture, loss) = (between.capture.clone(), between.loss);
        match (capture, loss) {
            (None, None) => run(cores, steering, main, move |_| open()),
            (Some(capture), None) => {
                run(cores, steering, main, move |core| Ok(Tap::new(open()?, capture.of_core(core).open(1)?)))
            }
            (None, Some(loss)) => run(cores, steering, main, move |core| Ok(loss.of_core(core).inject(open()?))),
            (Some(capture), Some(loss)) => run(cores, steering, main, move |core| {
                Ok(loss.of_core(core).inject(Tap::new(open()?, capture.of_core(core).open(1)?)))
            }),
        }
    }
}

impl Capture {
    /// Core 0's has the name that was asked for, the others' have their number behind it.
    fn of_core(&self, core: usize) -> Capture {
        let mut path = self.path.clone().into_os_string();
        if core > 0 {
            path.push(format!(".core{core}"));
        }
        Capture { path: path.into(), ..self.clone() }
    }
}

fn run<P, F, T>(
    cores: Vec<CoreConfig>,
    steering: &Steering,
    main: impl Fn(usize, Net) -> F + Clone + Send + 'static,
    open: impl Fn(usize) -> Result<P, Error> + Clone + Send + 'static,
) -> Result<Vec<T>, Error>
where
    P: Port + 'static,
    F: Future<Output = Result<T, Error>> + 'static,
    T: Send + 'static,
{
    let bells: Vec<Doorbell> = cores.iter().map(|_| Doorbell::new()).collect();
    let ends = mesh::<Packet>(&bells, CROSSING_PACKETS);
    let boots = cores.into_iter().zip(ends).enumerate().map(|(core, (config, end))| {
        let (steering, main, open) = (steering.clone(), main.clone(), open.clone());
        let boot = move |_| {
            let config = NetConfig { early_packets: EARLY_PACKETS, ..NetConfig::default() };
            let (mut driver, net) = NetDriver::new(open(core)?, config);
            driver.join(steering, end);
            Ok((driver, move || main(core, net)))
        };
        (config, boot)
    });
    let boots = boots.collect();
    Runtime::start(bells, boots).and_then(Runtime::join).map_err(failure)
}

fn failure(failure: Failure<Error>) -> Error {
    let Failure { core, why, .. } = failure;
    match why {
        CoreFailure::Said(error) => error,
        CoreFailure::Runtime(error) => runtime_error(error),
        CoreFailure::Panicked(message) => Error::Panicked { what: format!("core {core} panicked: {message}") },
    }
}
