//! The usual scene: client, HAProxy, backend, and the agent beside HAProxy.

use super::backend::Backend;
use super::captured::Captured;
use super::client::Client;
use super::free_port;
use super::haproxy::{self, Haproxy};
use super::sidetap::{CapturePath, Sidetap, tap};

pub struct Scene {
    pub sidetap: Sidetap,
    pub haproxy: Haproxy,
    pub backend: Backend,
    /// HAProxy's port.
    pub front: u16,
}

impl Scene {
    /// With these settings of `http_capture`.
    pub fn start(path: CapturePath, capture: &str) -> Scene {
        Scene::with_options(path, capture, "")
    }

    /// With more lines in HAProxy's `defaults`, each indented and ended.
    pub fn with_options(path: CapturePath, capture: &str, options: &str) -> Scene {
        let backend = Backend::start();
        let front = free_port();
        let haproxy = Haproxy::with(&proxies(front, backend.port(), options));
        let sidetap = Sidetap::start(&tap(haproxy::EXE, capture), path).of(haproxy.pid());
        Scene { sidetap, haproxy, backend, front }
    }

    pub fn client(&self) -> Client {
        Client::tcp(self.front)
    }

    /// Waits for both sides of a request that ends the test, then stops the agent. The order of arrival holds on a
    /// connection only, so what else a test expects it waits for itself.
    pub fn stop_after(mut self, id: &str) -> Captured {
        self.sidetap.wait_for_pair(id);
        self.sidetap.stop()
    }
}

/// One frontend that passes everything to one server.
pub fn proxies(front: u16, server: u16, options: &str) -> String {
    format!(
        "{options}frontend front\n    bind 127.0.0.1:{front}\n    @log@\n    default_backend servers\n\
         backend servers\n    server one 127.0.0.1:{server}\n"
    )
}
