// SPDX-License-Identifier: GPL-2.0-only

//! What debuggers see and do: ptrace(2), /proc/PID/mem, core dumps.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::ptrace;
use nix::sys::resource::RLIM_INFINITY;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;
use nix::sys::signal::Signal;
use nix::sys::signal::raise;
use nix::sys::uio::pread;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;

use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::Child;
use crate::tests::process::spawn;

tests! {
    ptrace_reads_and_writes_words => "map.ptrace",
    ptrace_does_not_get_around_the_mask => "map.ptrace",
    writing_by_force_does_not_get_around_the_mask => "map.proc-mem",
    core_dump_holds_the_content => "map.core-dump",
    core_dump_leaves_out_what_it_is_told_to => "map.core-dump",
}

/// A stopped child, traced by this process, with the mappings of this process.
struct Tracee(Child);

impl Tracee {
    fn new() -> anyhow::Result<Self> {
        let child = spawn(|| {
            ptrace::traceme()?;
            Ok(raise(Signal::SIGSTOP)?)
        })?;
        match waitpid(child.pid(), None)? {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => Ok(Self(child)),
            other => bail!("expected it to stop, found {other:?}"),
        }
    }

    fn peek(&self, map: &Mapping, offset: usize) -> nix::Result<libc::c_long> {
        ptrace::read(self.0.pid(), (map.base() + offset) as ptrace::AddressType)
    }

    fn poke(&self, map: &Mapping, offset: usize, word: libc::c_long) -> nix::Result<()> {
        let at = (map.base() + offset) as ptrace::AddressType;
        ptrace::write(self.0.pid(), at, word)
    }

    /// Its memory, where we may write by force: everywhere or where we trace.
    fn memory(&self) -> anyhow::Result<File> {
        let path = format!("/proc/{}/mem", self.0.pid());
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .context(path)
    }

    /// Lets it go on to its end.
    fn end(self) -> anyhow::Result<()> {
        ptrace::detach(self.0.pid(), None)?;
        self.0.join()
    }
}

const WORD: usize = size_of::<libc::c_long>();

/// A word of a mapping.
fn word(map: &Mapping, offset: usize) -> libc::c_long {
    let bytes = map.load(offset..offset + WORD);
    libc::c_long::from_ne_bytes(bytes.try_into().expect("as long as a word"))
}

fn ptrace_reads_and_writes_words() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    map.store(8, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let tracee = Tracee::new()?;
    ensure!(tracee.peek(&map, 8)? == word(&map, 8));
    ensure!(tracee.peek(&map, 2 * PAGE)? == 0, "a hole");
    ensure!(region.info()?.resident == 2, "{:?}", region.info()?);
    tracee.poke(&map, 0, -2)?;
    tracee.poke(&map, 3 * PAGE, 77)?;
    ensure!(word(&map, 0) == -2 && word(&map, 3 * PAGE) == 77);
    ensure!(region.info()?.resident == 3, "{:?}", region.info()?);
    // What is purged is gone for the tracer too.
    region.unpin(0..4)?;
    region.purge_all()?;
    ensure!(tracee.peek(&map, 0)? == 0);
    tracee.end()
}

/// Mappings of a region whose first page holds a 5, under a mask.
struct Masked {
    /// Made before the mask was set.
    before: Mapping,
    shared: Mapping,
    private: Mapping,
    region: Region,
}

impl Masked {
    /// With `prot` for both mappings.
    fn new(mask: ProtFlags, prot: ProtFlags) -> anyhow::Result<Self> {
        let region = Region::sized(2)?;
        let before = region.map(2)?;
        before.write(0, 5);
        region.set_mask(mask)?;
        Ok(Self {
            before,
            shared: region.map_as(2 * PAGE, prot, MapFlags::MAP_SHARED)?,
            private: region.map_as(2 * PAGE, prot, MapFlags::MAP_PRIVATE)?,
            region,
        })
    }

    /// Asserts that the region is as it was made.
    fn is_unchanged(&self) -> anyhow::Result<()> {
        ensure!(self.region.info()?.resident == 1, "a page came to be");
        // Looked at in a way that makes none.
        let mut content = vec![0xaa; 2 * PAGE];
        ensure!(pread(&self.region, &mut content, 0)? == 2 * PAGE);
        ensure!(content[0] == 5 && content[1..].iter().all(|byte| *byte == 0));
        Ok(())
    }
}

fn ptrace_does_not_get_around_the_mask() -> anyhow::Result<()> {
    let narrow = Masked::new(ProtFlags::PROT_READ, ProtFlags::PROT_READ)?;
    let wide = Masked::new(RW, ProtFlags::PROT_READ)?;
    let hidden = Masked::new(ProtFlags::PROT_WRITE, ProtFlags::PROT_WRITE)?;
    let none = Masked::new(RW, ProtFlags::PROT_NONE)?;
    let tracee = Tracee::new()?;
    for (what, map) in [
        ("shared, narrow mask", &narrow.shared),
        ("private, narrow mask", &narrow.private),
        // There the mask would allow it. But it would change what others see,
        // and so the kernel writes by force to private mappings only.
        ("shared, wide mask", &wide.shared),
    ] {
        for offset in [0, PAGE] {
            let found = tracee.poke(map, offset, 77);
            ensure!(found == Err(Errno::EIO), "{what}, {offset}: {found:?}");
        }
        ensure!(tracee.peek(map, 0)? == 5, "{what}");
    }
    narrow.is_unchanged()?;
    wide.is_unchanged()?;
    // This is how breakpoints are set: into a copy.
    for offset in [0, PAGE] {
        tracee.poke(&wide.private, offset, 77)?;
        ensure!(tracee.peek(&wide.private, offset)? == 77);
    }
    wide.is_unchanged()?;
    ensure!(wide.private.read(0) == 5, "a copy of the tracee alone");

    // Reading by force: where mprotect(2) could have made it readable.
    for map in [&hidden.shared, &hidden.private] {
        let found = tracee.peek(map, 0);
        ensure!(found == Err(Errno::EIO), "{found:?}");
    }
    for map in [&none.shared, &none.private] {
        ensure!(tracee.peek(map, 0)? == 5);
    }
    tracee.end()
}

fn writing_by_force_does_not_get_around_the_mask() -> anyhow::Result<()> {
    let read_exec = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    let narrow = Masked::new(ProtFlags::PROT_READ, ProtFlags::PROT_READ)?;
    let code = Masked::new(read_exec, read_exec)?;
    let wide = Masked::new(RW, ProtFlags::PROT_READ)?;
    let open = Masked::new(RW, RW)?;
    let tracee = Tracee::new()?;
    let memory = tracee.memory()?;
    let write = |map: &Mapping, offset: usize| {
        memory
            .write_at(&[77; 4], (map.base() + offset) as u64)
            .map_err(|error| error.raw_os_error())
    };
    let read = |map: &Mapping, offset: usize| -> anyhow::Result<_> {
        let mut bytes = [0xaa; 4];
        memory.read_exact_at(&mut bytes, (map.base() + offset) as u64)?;
        Ok(bytes)
    };
    for (what, map) in [
        ("shared, narrow mask", &narrow.shared),
        ("private, narrow mask", &narrow.private),
        ("shared code", &code.shared),
        ("private code", &code.private),
        ("shared, wide mask", &wide.shared),
    ] {
        for offset in [0, PAGE] {
            let found = write(map, offset);
            ensure!(found == Err(Some(libc::EIO)), "{what}, {offset}: {found:?}");
        }
        ensure!(read(map, 0)? == [5, 0, 0, 0], "{what}");
    }
    for masked in [&narrow, &code, &wide] {
        masked.is_unchanged()?;
    }
    // That it is by force shows where it is admitted: into a copy.
    for offset in [0, PAGE] {
        ensure!(write(&wide.private, offset) == Ok(4));
        ensure!(read(&wide.private, offset)? == [77; 4]);
    }
    wide.is_unchanged()?;
    // And what may be written anyway is the region's.
    for offset in [0, PAGE] {
        ensure!(write(&open.shared, offset) == Ok(4));
        ensure!(open.before.load(offset..offset + 4) == [77; 4]);
    }
    tracee.end()
}

/// `/proc/sys/kernel/core_pattern`, set; as before when dropped.
struct CorePattern(String);

const PATTERN: &str = "/proc/sys/kernel/core_pattern";

impl CorePattern {
    fn set(pattern: &str) -> anyhow::Result<Self> {
        let before = fs::read_to_string(PATTERN).context(PATTERN)?;
        fs::write(PATTERN, pattern).context(PATTERN)?;
        Ok(Self(before))
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        if let Err(error) = fs::write(PATTERN, &self.0) {
            eprintln!("{PATTERN}: {error}");
        }
    }
}

#[cfg(target_pointer_width = "64")]
use libc::Elf64_Ehdr as Ehdr;
#[cfg(target_pointer_width = "64")]
use libc::Elf64_Phdr as Phdr;

#[cfg(target_pointer_width = "32")]
use libc::Elf32_Ehdr as Ehdr;
#[cfg(target_pointer_width = "32")]
use libc::Elf32_Phdr as Phdr;

/// A structure of a core file: for [`Ehdr`] and [`Phdr`], which are integers.
fn header<T>(file: &[u8], offset: usize) -> anyhow::Result<T> {
    let bytes = file
        .get(offset..offset + size_of::<T>())
        .context("the core file is too short")?;
    // SAFETY: There are as many bytes, and any make a sound structure.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A core file.
struct Core(Vec<u8>);

impl Core {
    /// Of a child with our mappings that aborts, after `body`; `filter` as in core(5).
    fn of(filter: u32, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let _pattern = CorePattern::set("/tmp/core.%p")?;
        let child = spawn(|| {
            setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY)?;
            fs::write("/proc/self/coredump_filter", format!("{filter:#x}"))?;
            body()?;
            process::abort()
        })?;
        let path = format!("/tmp/core.{}", child.pid());
        match child.wait()? {
            WaitStatus::Signaled(_, Signal::SIGABRT, true) => {}
            other => bail!("expected a core dump, found {other:?}"),
        }
        let content = fs::read(&path).context(path.clone())?;
        fs::remove_file(path)?;
        Ok(Self(content))
    }

    /// What it has of a mapping. `None`: only that it was there.
    fn content(&self, map: &Mapping) -> anyhow::Result<Option<&[u8]>> {
        let file = &self.0;
        let ehdr: Ehdr = header(file, 0)?;
        ensure!(ehdr.e_ident[..4] == *b"\x7fELF" && ehdr.e_type == libc::ET_CORE);
        for i in 0..usize::from(ehdr.e_phnum) {
            let at = ehdr.e_phoff as usize + i * usize::from(ehdr.e_phentsize);
            let phdr: Phdr = header(file, at)?;
            if phdr.p_type != libc::PT_LOAD || phdr.p_vaddr as usize != map.base() {
                continue;
            }
            ensure!(phdr.p_memsz as usize == map.len(), "{}", phdr.p_memsz);
            let (start, len) = (phdr.p_offset as usize, phdr.p_filesz as usize);
            if len == 0 {
                return Ok(None);
            }
            ensure!(len == map.len(), "{len} bytes were dumped");
            return Ok(Some(
                file.get(start..start + len)
                    .context("the core file is too short")?,
            ));
        }
        bail!("the mapping is not in the core file")
    }
}

/// What a process has if nobody sets it; core(5).
const DEFAULT: u32 = 0x33;
/// Shared memory without a name, which counts as such if its file is deleted.
const ANONYMOUS_SHARED: u32 = 1 << 1;

fn core_dump_holds_the_content() -> anyhow::Result<()> {
    let region = Region::sized(6)?;
    let map = region.map(6)?;
    for at in (0..6 * PAGE).filter(|at| at / PAGE != 2) {
        map.write(at, (at * 7 + at / PAGE * 31) as u8);
    }
    region.unpin(3..4)?;
    ensure!(region.purge_all()? == 1);
    region.set_mask(ProtFlags::PROT_READ)?;
    let read_only = region.map_as(6 * PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    let other = Region::sized(2)?;
    let private = other.map_as(2 * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    private.stamp(0..1, 9);

    let core = Core::of(DEFAULT, || Ok(()))?;
    // Holes and what was purged are zeros, as they are for everybody.
    let expected = map.load(0..6 * PAGE);
    ensure!(expected[2 * PAGE..4 * PAGE].iter().all(|byte| *byte == 0));
    ensure!(expected[4 * PAGE..].iter().any(|byte| *byte != 0));
    for map in [&map, &read_only] {
        let found = core.content(map)?.context("nothing was dumped")?;
        let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
        ensure!(differs.is_none(), "differs first at {differs:?}");
    }
    let copy = core.content(&private)?.context("no private memory")?;
    ensure!(copy == private.load(0..2 * PAGE), "the copies");
    Ok(())
}

fn core_dump_leaves_out_what_it_is_told_to() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    map.stamp(0..2, 9);
    let only = Core::of(ANONYMOUS_SHARED, || Ok(()))?;
    ensure!(only.content(&map)?.is_some(), "of shared memory alone");
    let without = Core::of(DEFAULT & !ANONYMOUS_SHARED, || Ok(()))?;
    ensure!(without.content(&map)?.is_none(), "without shared memory");
    let advised = Core::of(DEFAULT, || {
        Ok(map.advise_bytes(0, map.len(), libc::MADV_DONTDUMP)?)
    })?;
    ensure!(advised.content(&map)?.is_none(), "with MADV_DONTDUMP");
    Ok(())
}
