// SPDX-License-Identifier: GPL-2.0-only

//! A heap that a server shares: clients ask for parts of it, and map it once.
//!
//! As Android's MemoryHeapBase and MemoryBase do it, over a Unix socket in place of binder:
//!
//! ```text
//!   client                                server
//!     part 7 ?        -------------->       a part: heap 1, offset 448, 64 bytes
//!     heap 1, 448, 64 <--------------
//!     heap 1 ?        -------------->       only if the client has not mapped it yet
//!     [descriptor]    <--------------
//! ```
//!
//! Without arguments it shows all of it; `heap server SOCKET` and `heap client SOCKET` are the two sides.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::ops::Range;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use ashmem::Mapping;
use ashmem::Protection;
use ashmem::Region;

mod socket;

/// What a heap that is written by all is called; `/proc/PID/maps` shows it.
const SHARED: &std::ffi::CStr = c"parts";
/// The part that is a counter, alone in its heap.
const COUNTER: u32 = 0;
/// Small parts, all of one heap.
const PARTS: Range<u32> = 1..2049;
/// In bytes.
const PART_SIZE: u64 = 64;
/// The part that clients may only read.
const NOTICE: u32 = 5000;
/// What it says.
const NOTICE_TEXT: &[u8] = b"written by the server alone";

/// Where a part lies.
#[derive(Clone, Copy)]
struct Part {
    heap: u64,
    /// In bytes, within the heap.
    offset: u64,
    /// In bytes.
    len: u64,
}

// The server. ------------------------------------------------------------------

struct Server {
    heaps: Vec<Region>,
}

impl Server {
    fn new() -> anyhow::Result<Self> {
        let counter = Region::new(c"counter", 4096)?;
        let parts = Region::new(SHARED, PARTS.len() * PART_SIZE as usize)?;
        let notice = Region::new(c"notice", 4096)?;
        notice.map()?.write(0, NOTICE_TEXT);
        // From here on nobody maps it to be written, not even this process.
        notice.restrict(Protection::READ)?;
        Ok(Self {
            heaps: vec![counter, parts, notice],
        })
    }

    fn part(number: u32) -> Option<Part> {
        let part = |heap, offset, len| Some(Part { heap, offset, len });
        match number {
            COUNTER => part(0, 0, 4),
            NOTICE => part(2, 0, NOTICE_TEXT.len() as u64),
            number if PARTS.contains(&number) => {
                part(1, u64::from(number - PARTS.start) * PART_SIZE, PART_SIZE)
            }
            _ => None,
        }
    }

    /// Answers one client until it leaves, however it leaves.
    fn serve(&self, mut client: UnixStream) -> anyhow::Result<()> {
        let mut request = [0; 5];
        while client.read_exact(&mut request).is_ok() {
            let [kind, number @ ..] = request;
            let number = u32::from_le_bytes(number);
            match kind {
                b'p' => {
                    let Part { heap, offset, len } =
                        Self::part(number).with_context(|| format!("there is no part {number}"))?;
                    client.write_all(&[heap, offset, len].map(u64::to_le_bytes).concat())?;
                }
                b'h' => {
                    let heap = self.heaps.get(number as usize).context("no such heap")?;
                    socket::send(&client, heap)?;
                }
                _ => bail!("a client asks what is no question"),
            }
        }
        Ok(())
    }

    fn run(self, at: &Path) -> anyhow::Result<()> {
        let listener = UnixListener::bind(at)?;
        println!("listening");
        thread::scope(|scope| {
            for client in listener.incoming() {
                let client = client?;
                // A client that asks nonsense loses its connection, and nobody else's.
                scope.spawn(|| {
                    self.serve(client)
                        .unwrap_or_else(|e| eprintln!("server: {e:#}"))
                });
            }
            Ok(())
        })
    }
}

// A client. --------------------------------------------------------------------

struct Client {
    server: UnixStream,
    /// What it has mapped, by the heap's number.
    heaps: HashMap<u64, Mapping<'static>>,
}

impl Client {
    fn connect(at: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            server: UnixStream::connect(at).context("no server")?,
            heaps: HashMap::new(),
        })
    }

    fn ask(&mut self, kind: u8, number: u32) -> anyhow::Result<()> {
        let [a, b, c, d] = number.to_le_bytes();
        self.server
            .write_all(&[kind, a, b, c, d])
            .context("the server is gone")
    }

    /// Asks for a part, and maps its heap if that is its first one.
    fn part(&mut self, number: u32) -> anyhow::Result<Part> {
        self.ask(b'p', number)?;
        let mut answer = [0; 24];
        self.server
            .read_exact(&mut answer)
            .context("the server is gone")?;
        let mut words = answer.chunks_exact(8).map(|word| {
            let word: [u8; 8] = word.try_into().expect("a chunk of eight");
            u64::from_le_bytes(word)
        });
        let mut word = || words.next().context("three words");
        let (heap, offset, len) = (word()?, word()?, word()?);
        let mapped = self.heaps.contains_key(&heap);
        if !mapped {
            let region = self.heap(heap)?;
            let options = ashmem::MapOptions::new();
            let options = match region.protection()?.contains(Protection::WRITE) {
                true => options,
                false => options.protection(Protection::READ),
            };
            // The descriptor is closed, and the mapping stays.
            let memory = region.map_with(options)?.detach();
            self.heaps.insert(heap, memory);
        }
        Ok(Part { heap, offset, len })
    }

    fn heap(&mut self, number: u64) -> anyhow::Result<Region> {
        self.ask(b'h', number as u32)?;
        Ok(Region::try_from(socket::receive(&self.server)?)?)
    }

    fn memory(&self, part: Part) -> &Mapping<'static> {
        &self.heaps[&part.heap]
    }
}

/// Adds one to the counter; gives what it was.
fn count(at: &Path) -> anyhow::Result<u32> {
    let mut client = Client::connect(at)?;
    let part = client.part(COUNTER)?;
    let at = client
        .memory(part)
        .as_ptr()
        .wrapping_add(part.offset as usize);
    // SAFETY: The part is four bytes of mapped memory, aligned, which is there as long as `client`; other
    // processes change it by atomic operations only.
    let counter = unsafe { AtomicU32::from_ptr(at.cast()) };
    Ok(counter.fetch_add(1, Ordering::Relaxed))
}

// The show. --------------------------------------------------------------------

/// This program once more, as one of the two sides.
fn side(side: &str, at: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(side).arg(at);
    Ok(command)
}

/// Starts a server, and waits until it listens.
fn start_server(at: &Path) -> anyhow::Result<Child> {
    let mut server = side("server", at)?.stdout(Stdio::piped()).spawn()?;
    let mut line = [0; 10];
    let out = server.stdout.as_mut().context("its output")?;
    out.read_exact(&mut line).context("the server")?;
    Ok(server)
}

fn show() -> anyhow::Result<()> {
    let folder = env::temp_dir().join(format!("heap-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let shown = show_in(&folder.join("socket"));
    fs::remove_dir_all(&folder)?;
    shown
}

fn show_in(at: &Path) -> anyhow::Result<()> {
    let mut server = start_server(at)?;
    println!("a server has a counter; each client is a process of its own, and adds one");
    for expected in 0..4 {
        let output = side("client", at)?.output()?;
        let found = String::from_utf8(output.stdout)?;
        println!("  client finds {}", found.trim());
        ensure!(output.status.success() && found.trim() == expected.to_string());
    }

    let mut first = Client::connect(at)?;
    let mut second = Client::connect(at)?;
    for number in PARTS {
        let part = first.part(number)?;
        first
            .memory(part)
            .write(part.offset as usize, &number.to_le_bytes());
    }
    for number in PARTS {
        let part = second.part(number)?;
        let mut found = [0; 4];
        second.memory(part).read(part.offset as usize, &mut found);
        ensure!(
            found == number.to_le_bytes(),
            "part {number} is another one's"
        );
    }
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mapped = maps
        .lines()
        .filter(|line| line.contains(&*SHARED.to_string_lossy()))
        .count();
    println!(
        "\n{} parts of {PART_SIZE} bytes, written by one client and read by another",
        PARTS.len()
    );
    println!("  both have mapped them: {mapped} mappings");
    ensure!(mapped == 2);

    let notice = first.part(NOTICE)?;
    let mut text = vec![0; notice.len as usize];
    first.memory(notice).read(notice.offset as usize, &mut text);
    let region = first.heap(notice.heap)?;
    let refused = region
        .map()
        .err()
        .context("it could be mapped to be written")?;
    println!("\na heap that the server has restricted to reading");
    println!("  reads \"{}\"", String::from_utf8_lossy(&text));
    println!("  mapped to be written: {}", name_of(refused.errno()));
    // SAFETY: The memory is ours, and what is asked for is refused, or takes nothing away.
    let ret =
        unsafe { libc::mprotect(first.memory(notice).as_ptr().cast(), 4096, libc::PROT_WRITE) };
    let errno = nix::errno::Errno::last_raw();
    println!("  made writable later: {}", name_of(errno));
    ensure!(text == NOTICE_TEXT && refused.errno() == libc::EPERM);
    ensure!(ret == -1 && errno == libc::EACCES);

    let mut held = side("client", at)?
        .arg("and-stay")
        .stdout(Stdio::piped())
        .spawn()?;
    let out = held.stdout.as_mut().context("its output")?;
    out.read_exact(&mut [0; 2])?;
    held.kill()?;
    held.wait()?;
    let found = count(at)?;
    println!("\na client is killed while it has the counter mapped: the next one finds {found}");
    ensure!(found == 5);

    server.kill()?;
    server.wait()?;
    let part = first.part(PARTS.start);
    println!("the server is killed");
    println!("  a new part: {}", part.err().context("it answers still")?);
    let mut found = [0; 4];
    let last = u64::from(PARTS.end - 1 - PARTS.start) * PART_SIZE;
    first.heaps[&1].read(last as usize, &mut found);
    println!(
        "  what was mapped is there: part {}",
        u32::from_le_bytes(found)
    );
    ensure!(u32::from_le_bytes(found) == PARTS.end - 1);
    Ok(())
}

fn name_of(errno: i32) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno))
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => show(),
        ["server", at] => Server::new()?.run(Path::new(at)),
        ["client", at] => {
            println!("{}", count(Path::new(at))?);
            Ok(())
        }
        ["client", at, "and-stay"] => {
            println!("{}", count(Path::new(at))?);
            loop {
                thread::park();
            }
        }
        _ => bail!("usage: heap [server SOCKET | client SOCKET]"),
    }
}
