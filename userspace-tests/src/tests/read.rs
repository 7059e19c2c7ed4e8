// SPDX-License-Identifier: GPL-2.0-only

//! The device's file without a mapping: read(2), lseek(2), sendfile(2).

use std::io::IoSliceMut;
use std::os::fd::AsFd;

use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;
use nix::sys::uio::pwrite;
use nix::sys::uio::readv;
use nix::unistd::Whence;
use nix::unistd::lseek64;
use nix::unistd::pipe;
use nix::unistd::read;
use nix::unistd::write;

use crate::harness::tests;
use crate::region::PAGE;
use crate::region::Region;

tests! {
    states_before_the_first_mapping,
    read_gives_content_up_to_the_unrounded_size,
    holes_read_as_zeros_and_stay_holes,
    write_is_einval,
    lseek_moves_the_position,
    seek_finds_data_and_holes,
    sendfile_copies_the_region,
}

fn states_before_the_first_mapping() -> anyhow::Result<()> {
    let region = Region::open()?;
    let mut buffer = [1; 16];
    ensure!(
        read(&region, &mut buffer)? == 0,
        "not sized: nothing to read"
    );
    ensure!(lseek64(&region, 0, Whence::SeekSet) == Err(Errno::EINVAL));
    region.set_size(PAGE)?;
    ensure!(read(&region, &mut buffer) == Err(Errno::EBADF));
    ensure!(lseek64(&region, 0, Whence::SeekSet) == Err(Errno::EBADF));
    Ok(())
}

fn read_gives_content_up_to_the_unrounded_size() -> anyhow::Result<()> {
    let region = Region::open()?;
    let size = 2 * PAGE + 10;
    region.set_size(size)?;
    let map = region.map(3)?;
    for at in 0..3 * PAGE {
        map.write(at, (at % 251) as u8);
    }
    let expected = |from: usize, len: usize| -> Vec<u8> {
        (from..from + len).map(|at| (at % 251) as u8).collect()
    };
    let mut buffer = vec![0; 4 * PAGE];
    ensure!(read(&region, &mut buffer)? == size);
    ensure!(buffer[..size] == expected(0, size));
    ensure!(read(&region, &mut buffer)? == 0, "at the end");

    ensure!(region.read_at(&mut buffer[..100], PAGE as i64 - 50)? == 100);
    ensure!(buffer[..100] == expected(PAGE - 50, 100));
    ensure!(region.read_at(&mut buffer, size as i64 - 1)? == 1);
    ensure!(region.read_at(&mut buffer, size as i64)? == 0);
    ensure!(region.read_at(&mut buffer, i64::MAX / 2)? == 0);

    lseek64(&region, 5, Whence::SeekSet)?;
    let (head, tail) = buffer.split_at_mut(7);
    ensure!(
        readv(
            &region,
            &mut [IoSliceMut::new(head), IoSliceMut::new(&mut tail[..9])]
        )? == 16
    );
    ensure!(buffer[..16] == expected(5, 16));
    ensure!(lseek64(&region, 0, Whence::SeekCur)? == 21);
    Ok(())
}

fn holes_read_as_zeros_and_stay_holes() -> anyhow::Result<()> {
    let region = Region::sized(3)?;
    let map = region.map(3)?;
    map.write(PAGE, 7);
    let mut buffer = vec![1; 3 * PAGE];
    ensure!(read(&region, &mut buffer)? == 3 * PAGE);
    ensure!(buffer[PAGE] == 7);
    ensure!(buffer.iter().map(|b| usize::from(*b)).sum::<usize>() == 7);
    ensure!(region.info()?.resident == 1, "reading allocated a page");

    // A fault in the destination ends it where it happens.
    // SAFETY: The address is not mapped; the kernel says so and writes nothing.
    let found = Errno::result(unsafe {
        libc::pread(
            std::os::fd::AsRawFd::as_raw_fd(&region.as_fd()),
            8 as *mut libc::c_void,
            10,
            0,
        )
    });
    ensure!(found == Err(Errno::EFAULT), "{found:?}");
    Ok(())
}

fn write_is_einval() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    ensure!(write(&region, b"x") == Err(Errno::EINVAL));
    let map = region.map(1)?;
    ensure!(write(&region, b"x") == Err(Errno::EINVAL));
    ensure!(pwrite(&region, b"x", 0) == Err(Errno::EINVAL));
    ensure!(map.read(0) == 0);
    Ok(())
}

fn lseek_moves_the_position() -> anyhow::Result<()> {
    let region = Region::open()?;
    region.set_size(1000)?;
    let _map = region.map(1)?;
    ensure!(lseek64(&region, 10, Whence::SeekSet)? == 10);
    ensure!(lseek64(&region, 5, Whence::SeekCur)? == 15);
    ensure!(lseek64(&region, -1, Whence::SeekEnd)? == 999);
    ensure!(lseek64(&region, -1, Whence::SeekSet) == Err(Errno::EINVAL));
    let twin = region.as_fd().try_clone_to_owned()?;
    ensure!(lseek64(&twin, 0, Whence::SeekCur)? == 999, "dup shares it");
    Ok(())
}

fn seek_finds_data_and_holes() -> anyhow::Result<()> {
    let region = Region::open()?;
    let size = 2000 * PAGE - 100;
    region.set_size(size)?;
    let map = region.map(2000)?;
    // Data in 3..5, across a boundary of what the driver counts together, and
    // in the last page.
    for page in [3, 4, 511, 512, 1999] {
        map.write(page * PAGE, 1);
    }
    let at = |page: usize| (page * PAGE) as i64;
    let size = size as i64;
    for (from, data, hole) in [
        (0, Ok(at(3)), Ok(0)),
        (at(3) + 5, Ok(at(3) + 5), Ok(at(5))),
        (at(5), Ok(at(511)), Ok(at(5))),
        (at(511), Ok(at(511)), Ok(at(513))),
        (at(600), Ok(at(1999)), Ok(at(600))),
        (at(1999), Ok(at(1999)), Ok(size)),
        (size - 1, Ok(size - 1), Ok(size)),
        (size, Err(Errno::ENXIO), Err(Errno::ENXIO)),
        (-1, Err(Errno::ENXIO), Err(Errno::ENXIO)),
    ] {
        let found = lseek64(&region, from, Whence::SeekData);
        ensure!(found == data, "data from {from}: {found:?}");
        let found = lseek64(&region, from, Whence::SeekHole);
        ensure!(found == hole, "hole from {from}: {found:?}");
    }
    region.unpin(1999..2000)?;
    region.purge_all()?;
    ensure!(lseek64(&region, at(513), Whence::SeekData) == Err(Errno::ENXIO));
    Ok(())
}

fn sendfile_copies_the_region() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    for at in 0..4 * PAGE {
        map.write(at, (at % 253) as u8);
    }
    let (out, into) = pipe()?;
    let mut offset = 100;
    let len = 3 * PAGE;
    let sent = sendfile64(&into, &region, Some(&mut offset), len)?;
    ensure!(sent == len && offset == 100 + len as i64, "{sent}");
    drop(into);
    let mut found = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(out), &mut found)?;
    ensure!(found.len() == len);
    ensure!((0..len).all(|at| found[at] == ((at + 100) % 253) as u8));
    Ok(())
}
