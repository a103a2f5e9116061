use sidetap::bpf::*;
fn main() {
    let path = if std::env::args().nth(1).as_deref() == Some("syscall") { CapturePath::Syscall } else { CapturePath::detect().unwrap() };
    let mut k = Kernel::load(path, Tap::default()).unwrap();
    let mut readers = k.readers(1 << 20).unwrap();
    k.attach().unwrap();
    eprintln!("capturing {path:?}");
    for _ in 0..30 {
        for r in &mut readers {
            r.wait(std::time::Duration::from_millis(50));
            r.drain(|b| println!("{:?}", Event::parse(b))).unwrap();
        }
    }
    eprintln!("{:?}", k.counters());
}
