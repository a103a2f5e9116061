pub mod bpf;
pub mod proto;
pub mod exchange;
