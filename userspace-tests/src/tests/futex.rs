// SPDX-License-Identifier: GPL-2.0-only

//! Processes that wait for each other at words of a region: futex(2) itself,
//! and what the C library makes of it.

use std::fs;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sched::sched_yield;
use nix::sys::signal::Signal;
use nix::sys::signal::raise;
use nix::sys::wait::WaitStatus;

use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::Region;
use crate::tests::process::Child;
use crate::tests::process::in_child;
use crate::tests::process::spawn;
use crate::tests::process::until;

tests! {
    process_shared_futex_wakes => "map.futex",
    futex_in_a_page_that_is_purged_meanwhile_wakes => "map.futex" "purge.zeros",
    mutex_keeps_processes_apart => "map.futex",
    mutex_of_a_dead_owner_is_passed_on => "map.futex",
    mutex_with_priority_inheritance_knows_its_owner => "map.futex",
    condition_variable_wakes_another_process => "map.futex",
}

/// futex(2) without FUTEX_PRIVATE_FLAG.
fn futex(
    map: &Mapping,
    offset: usize,
    op: libc::c_int,
    value: u32,
    timeout: Option<Duration>,
) -> nix::Result<libc::c_long> {
    let timeout = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs() as libc::time_t,
        tv_nsec: 0,
    });
    // SAFETY: The word is mapped and aligned, and the timeout lives long enough.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_futex,
            map.atomic(offset).as_ptr(),
            op,
            value,
            timeout.as_ref().map_or(std::ptr::null(), |t| &raw const *t),
        )
    })
}

/// Sleeps while the word has this value.
fn sleep_at(map: &Mapping, offset: usize, value: u32) -> nix::Result<()> {
    let timeout = Some(Duration::from_secs(20));
    futex(map, offset, libc::FUTEX_WAIT, value, timeout).map(drop)
}

/// Wakes one; gives how many that were.
fn wake(map: &Mapping, offset: usize) -> nix::Result<libc::c_long> {
    futex(map, offset, libc::FUTEX_WAKE, 1, None)
}

/// Waits until a child sleeps in futex(2).
fn until_asleep(child: &Child) -> anyhow::Result<()> {
    let path = format!("/proc/{}/syscall", child.pid());
    let asleep = format!("{} ", libc::SYS_futex);
    until("the child sleeps in futex(2)", || {
        Ok(fs::read_to_string(&path)?.starts_with(&asleep))
    })
}

/// Waits until another process has set the word.
fn until_set(what: &str, word: &AtomicU32) -> anyhow::Result<()> {
    until(what, || Ok(word.load(SeqCst) != 0))
}

fn process_shared_futex_wakes() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    // Once in a page that is there, once in one that is not.
    map.atomic(0).store(0, SeqCst);
    for (offset, resident) in [(0, 1), (PAGE, 2)] {
        let sleeper = spawn(|| {
            // Through a mapping of its own, at another address.
            let twin = region.map(2)?;
            ensure!(twin.base() != map.base());
            Ok(sleep_at(&twin, offset, 0)?)
        })?;
        until_asleep(&sleeper)?;
        ensure!(region.info()?.resident == resident, "{:?}", region.info()?);
        ensure!(wake(&map, offset + 4)? == 0, "at the word beside it");
        ensure!(wake(&map, offset)? == 1, "nobody was woken");
        sleeper.join()?;
    }
    ensure!(sleep_at(&map, 0, 1) == Err(Errno::EAGAIN));
    Ok(())
}

fn futex_in_a_page_that_is_purged_meanwhile_wakes() -> anyhow::Result<()> {
    const WORD: usize = PAGE + 8;
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    map.atomic(WORD).store(7, SeqCst);
    let sleeper = spawn(|| {
        let twin = region.map(2)?;
        sleep_at(&twin, WORD, 7)?;
        ensure!(twin.atomic(WORD).load(SeqCst) == 0);
        Ok(())
    })?;
    until_asleep(&sleeper)?;
    region.unpin(0..2)?;
    ensure!(region.purge_all()? == 2);
    ensure!(region.info()?.resident == 0, "a sleeper holds no page");
    // Where one sleeps is known by the file's page, not by its memory.
    ensure!(wake(&map, WORD)? == 1, "nobody was woken");
    sleeper.join()?;
    // Who comes with the value of before is told that it is another one.
    ensure!(sleep_at(&map, WORD, 7) == Err(Errno::EAGAIN));
    ensure!(map.atomic(WORD).load(SeqCst) == 0);
    ensure!(region.pin(0..2)?);
    Ok(())
}

/// A result of pthread functions.
fn check(code: libc::c_int) -> nix::Result<()> {
    match code {
        0 => Ok(()),
        error => Err(Errno::from_raw(error)),
    }
}

/// A mutex of the C library, in a mapping.
struct Mutex(*mut libc::pthread_mutex_t);

impl Mutex {
    /// The one that lies at the beginning of a mapping.
    fn at(map: &Mapping) -> Self {
        assert!(map.len() >= size_of::<libc::pthread_mutex_t>());
        Self(map.pointer().as_ptr().cast())
    }

    /// Makes one for several processes, robust or with priority inheritance.
    fn new(map: &Mapping, robust: bool, inherit: bool) -> anyhow::Result<Self> {
        let this = Self::at(map);
        let mut attr = std::mem::MaybeUninit::uninit();
        // SAFETY: It initialises `attr`, which the calls below then use.
        check(unsafe { libc::pthread_mutexattr_init(attr.as_mut_ptr()) })?;
        let attr = attr.as_mut_ptr();
        let shared = libc::PTHREAD_PROCESS_SHARED;
        // SAFETY: It is initialised.
        check(unsafe { libc::pthread_mutexattr_setpshared(attr, shared) })?;
        if robust {
            // SAFETY: As above.
            check(unsafe { libc::pthread_mutexattr_setrobust(attr, libc::PTHREAD_MUTEX_ROBUST) })?;
        }
        if inherit {
            let protocol = libc::PTHREAD_PRIO_INHERIT;
            // SAFETY: As above.
            check(unsafe { libc::pthread_mutexattr_setprotocol(attr, protocol) })?;
        }
        // SAFETY: There is room for it in the mapping, and nobody knows of it yet.
        check(unsafe { libc::pthread_mutex_init(this.0, attr) })?;
        Ok(this)
    }

    fn lock(&self) -> nix::Result<()> {
        // SAFETY: A process made it here before this one looked.
        check(unsafe { libc::pthread_mutex_lock(self.0) })
    }

    fn unlock(&self) -> nix::Result<()> {
        // SAFETY: As above.
        check(unsafe { libc::pthread_mutex_unlock(self.0) })
    }

    fn consistent(&self) -> nix::Result<()> {
        // SAFETY: As above.
        check(unsafe { libc::pthread_mutex_consistent(self.0) })
    }
}

/// Where the tests keep a word beside a mutex.
const BESIDE: usize = PAGE;

fn mutex_keeps_processes_apart() -> anyhow::Result<()> {
    const CHILDREN: u32 = 3;
    const ROUNDS: u32 = 500;
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    Mutex::new(&map, false, false)?;
    let children = (0..CHILDREN)
        .map(|_| {
            spawn(|| {
                let twin = region.map(2)?;
                let (mutex, count) = (Mutex::at(&twin), twin.atomic(BESIDE));
                for _ in 0..ROUNDS {
                    mutex.lock()?;
                    let before = count.load(SeqCst);
                    // Whoever is let in now will be missed in the sum.
                    sched_yield()?;
                    count.store(before + 1, SeqCst);
                    mutex.unlock()?;
                }
                Ok(())
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    for child in children {
        child.join()?;
    }
    let count = map.atomic(BESIDE).load(SeqCst);
    ensure!(count == CHILDREN * ROUNDS, "{count}");
    Ok(())
}

/// A process that locks the mutex and dies with it once `go` is set.
fn doomed_owner(region: &Region, ready: &AtomicU32, go: &AtomicU32) -> anyhow::Result<Child> {
    let child = spawn(|| {
        let twin = region.map(2)?;
        Mutex::at(&twin).lock()?;
        ready.store(1, SeqCst);
        until_set("the owner may die", go)?;
        Ok(raise(Signal::SIGKILL)?)
    })?;
    until_set("the mutex has an owner", ready)?;
    Ok(child)
}

fn dies_as_it_should(owner: Child) -> anyhow::Result<()> {
    let status = owner.wait()?;
    ensure!(
        matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
        "{status:?}"
    );
    Ok(())
}

fn mutex_of_a_dead_owner_is_passed_on() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    let mutex = Mutex::new(&map, true, false)?;
    let words = [0, 4, 8, 12].map(|at| map.atomic(BESIDE + at));

    // To one that waits already.
    let owner = doomed_owner(&region, words[0], words[1])?;
    let heir = spawn(|| {
        let twin = region.map(2)?;
        let mutex = Mutex::at(&twin);
        let found = mutex.lock();
        ensure!(found == Err(Errno::EOWNERDEAD), "{found:?}");
        mutex.consistent()?;
        Ok(mutex.unlock()?)
    })?;
    until_asleep(&heir)?;
    words[1].store(1, SeqCst);
    dies_as_it_should(owner)?;
    heir.join().context("the heir")?;
    mutex
        .lock()
        .context("made consistent, it is as good as new")?;
    mutex.unlock()?;

    // To one that comes later. Not made consistent, it is of no use any more.
    let owner = doomed_owner(&region, words[2], words[3])?;
    words[3].store(1, SeqCst);
    dies_as_it_should(owner)?;
    ensure!(mutex.lock() == Err(Errno::EOWNERDEAD));
    mutex.unlock()?;
    in_child(|| {
        ensure!(mutex.lock() == Err(Errno::ENOTRECOVERABLE));
        Ok(())
    })
}

fn mutex_with_priority_inheritance_knows_its_owner() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    let mutex = Mutex::new(&map, false, true)?;
    mutex.lock()?;
    let waiter = spawn(|| {
        let twin = region.map(2)?;
        let mutex = Mutex::at(&twin);
        mutex.lock()?;
        twin.atomic(BESIDE).store(std::process::id(), SeqCst);
        Ok(mutex.unlock()?)
    })?;
    until_asleep(&waiter)?;
    // The kernel says so in the word itself, which the C library puts first.
    let word = map.atomic(0).load(SeqCst);
    ensure!(
        word == libc::FUTEX_WAITERS | std::process::id(),
        "{word:#x}"
    );
    ensure!(map.atomic(BESIDE).load(SeqCst) == 0, "it got in");
    mutex.unlock()?;
    let pid = waiter.pid();
    waiter.join()?;
    ensure!(map.atomic(BESIDE).load(SeqCst) == pid.as_raw() as u32);
    ensure!(map.atomic(0).load(SeqCst) == 0, "it is free");
    Ok(())
}

/// A condition variable of the C library, in the second page of a mapping.
struct Condition(*mut libc::pthread_cond_t);

impl Condition {
    fn at(map: &Mapping) -> Self {
        Self(map.iovec(1..2).iov_base.cast())
    }

    /// Makes one for several processes.
    fn new(map: &Mapping) -> anyhow::Result<Self> {
        let this = Self::at(map);
        let mut attr = std::mem::MaybeUninit::uninit();
        // SAFETY: It initialises `attr`, which the calls below then use.
        check(unsafe { libc::pthread_condattr_init(attr.as_mut_ptr()) })?;
        let attr = attr.as_mut_ptr();
        let shared = libc::PTHREAD_PROCESS_SHARED;
        // SAFETY: It is initialised.
        check(unsafe { libc::pthread_condattr_setpshared(attr, shared) })?;
        // SAFETY: There is room for it in the page, and nobody knows of it yet.
        check(unsafe { libc::pthread_cond_init(this.0, attr) })?;
        Ok(this)
    }

    fn wait(&self, mutex: &Mutex) -> nix::Result<()> {
        // SAFETY: A process made both before this one looked.
        check(unsafe { libc::pthread_cond_wait(self.0, mutex.0) })
    }

    fn signal(&self) -> nix::Result<()> {
        // SAFETY: As above.
        check(unsafe { libc::pthread_cond_signal(self.0) })
    }
}

fn condition_variable_wakes_another_process() -> anyhow::Result<()> {
    const ROUNDS: u32 = 100;
    const TURN: usize = 2 * PAGE;
    let region = Region::sized(3)?;
    let map = region.map(3)?;
    Mutex::new(&map, false, false)?;
    Condition::new(&map)?;
    // Two processes take turns; each leaves it to the other and sleeps.
    let play = |odd: u32| -> anyhow::Result<()> {
        let twin = region.map(3)?;
        let (mutex, condition) = (Mutex::at(&twin), Condition::at(&twin));
        let turn = twin.atomic(TURN);
        for round in 0..ROUNDS {
            mutex.lock()?;
            while turn.load(SeqCst) != 2 * round + odd {
                condition.wait(&mutex)?;
            }
            turn.store(2 * round + odd + 1, SeqCst);
            condition.signal()?;
            mutex.unlock()?;
        }
        Ok(())
    };
    let other = spawn(|| play(1))?;
    play(0)?;
    other.join()?;
    ensure!(map.atomic(TURN).load(SeqCst) == 2 * ROUNDS);
    Ok(())
}
