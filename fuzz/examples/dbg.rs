use fencepost::mmu::{areas::Node,geometry::X86L4,lookaside::LookasideLine,machine::*,objects::ObjectRecord,physical::*,space::Layout,swap::SwapRecord,tlb::TlbLine,area::{Limits,linux::*}};
fn main(){
 fn k<T>(n:usize,f:impl Fn()->T)->&'static mut [T]{Box::leak((0..n).map(|_|f()).collect())}
 let mut m:Machine<X86L4>=Machine::new(Storage{memory:k(100*512,||0),frames:k(100,||FrameRecord::EMPTY),swap:k(0,||SwapRecord::EMPTY),disk:k(0,||0),nodes:k(64,||Node::EMPTY),objects:k(8,||ObjectRecord::EMPTY),spaces:k(4,||SpaceRecord::EMPTY),maps:k(4,||PageMap::EMPTY),tlb:k(4096,||TlbLine::EMPTY),lookaside:k(256,||LookasideLine::EMPTY)},Options::DEFAULT);
 let a=m.spawn(Layout::linux_default(0),Limits::NONE).unwrap(); m.switch_to(a).unwrap();
 let show=|m:&mut Machine<X86L4>,w:&str,s:SpaceId|println!("{w}: free {} tables {} check {:?}",m.memory().free(),m.table_bytes(s),m.check());
 show(&mut m,"new",a);
 let which=std::env::args().nth(1).unwrap();
 if which=="obj"{let o=m.create(5*4096).unwrap();
 let at=m.mmap(0,5*4096,3,MAP_SHARED,Some(o),0).unwrap(); m.copy_out(a,at,b"x").unwrap(); show(&mut m,"mapped",a); m.munmap(at,5*4096).unwrap(); show(&mut m,"unmapped",a);}
 if which=="anon"{let at=m.mmap(0,5*4096,3,MAP_PRIVATE|MAP_ANONYMOUS,None,0).unwrap(); m.copy_out(a,at,b"x").unwrap(); show(&mut m,"mapped",a); m.munmap(at,5*4096).unwrap(); show(&mut m,"unmapped",a);}
 let b=m.fork(a).unwrap(); show(&mut m,"forked",b);
 m.exit(a); show(&mut m,"exited",b);
 m.exit(b); show(&mut m,"both",b);
}
