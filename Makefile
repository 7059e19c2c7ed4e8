# ashmem: /dev/ashmem for today's Linux, in Rust.
#
# The verbs. What each of them does is a script of (nearly) its name in scripts/.

# Given on the command line or in the environment, they reach the scripts there.

.PHONY: help run test matrix bench soak fuzz system-test deb install uninstall check shell modules paths client fmt update root-shell clean distclean
.SILENT:

help: ## This list
	echo 'make VERB [VARIABLE=VALUE...]'
	echo
	sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 14
	echo
	sed -nE 's/^#= ([^ ]+) +(.*)/  \1\t\2/p' Makefile | expand -t 22

#= KERNEL=            stock or debug; if not given, test: both (and qemu/'s own tests), soak and fuzz:
#=                    debug, matrix: all that Debian has, others: stock. stock:forky is that of another
#=                    suite, stock:trixie-backports:7.2 one of an older series
#= EXAMPLE=             run: a program of client/examples/; without a name, a list of them
#= TEST=              test, matrix: only what has this in its name
#= MINUTES=           soak, fuzz: how long, 60 and 10 if not given
#= SEED=              fuzz: the first sequence of calls
#= CALLS=             fuzz: that sequence only, up to this call
#= COMPARE=           bench: results of an older run; fails if something costs over 10 % more
#= JSON=              bench, matrix: a file that gets the results as well
#= RECORD=1           bench: put the results into docs/bench.json, the README and its picture;
#=                    matrix: into docs/kernels.json and the README
#= TIMEOUT=           run, test, matrix, bench, soak, fuzz, shell: seconds that one machine may take
#= ASHMEM_CACHE=      where roots, sources, kernels and objects are kept
#= MIRROR=            a Debian mirror, if not the one of this machine's apt
#= ALLOW_OUTDATED=1   take a mirror whose index has passed its date
#= KDIR=              modules, install: a kernel build tree of your own
#= KERNELRELEASE=     install, uninstall: the kernel, if not the one that runs
#= DESTDIR=           install, uninstall: a folder in place of /

run: ## Load the driver into Debian's own kernel in QEMU and show what it is good for, or an EXAMPLE
	scripts/run demo

test: ## Run all tests: on the host, in the stock kernel and in the debug kernel
	scripts/run test

matrix: ## Run the guest's tests in every kernel 7.x of trixie-backports, forky and sid
	scripts/matrix

bench: ## Count the instructions of what is done to memory: this driver's, a memfd's, others'
	scripts/run bench

soak: ## Load the driver a thousand times, then do everything at once for MINUTES
	scripts/run soak

fuzz: ## Make random calls for MINUTES in the debug kernel
	scripts/run fuzz

system-test: ## Install the package in a whole Debian in QEMU, reboot, upgrade the kernel, purge; goes on where it was stopped
	scripts/system-test

deb: ## Build the Debian package ashmem-dkms, and print where it lies
	scripts/deb

install: ## Build the driver for this machine's kernel and install it; not for who has the package
	scripts/install

uninstall: ## Remove what `make install` has installed
	scripts/install uninstall

check: ## Check format, lints, scripts, and where `unsafe` stands
	scripts/check

shell: ## Give a shell in the guest, with the driver loaded
	scripts/run shell

modules: ## Build the driver for KERNEL, or against KDIR
ifdef KDIR
	test -e '$(KDIR)/Makefile' || { echo 'make: KDIR=$(KDIR) is not a kernel build tree' >&2; exit 1; }
	$(MAKE) -C '$(KDIR)' M='$(CURDIR)' modules
else
	scripts/module '$(or $(KERNEL),stock)'
	scripts/paths '$(or $(KERNEL),stock)'
endif

paths: ## Print KIMG, KDIR and KO of KERNEL as shell assignments; build nothing
	scripts/paths '$(or $(KERNEL),stock)'

client: ## Build the C library, and print where it and its header lie
	scripts/client

fmt: ## Format the Rust sources
	scripts/check fmt

update: ## Look for a newer stock kernel; remove roots and kernels no longer used
	scripts/update

root-shell: ## Give a shell in the Debian root where everything is built
	scripts/enter bash

clean: ## Remove what was built from this work tree
	scripts/clean

distclean: ## Remove the whole cache
	scripts/clean all
