#include "mmu/kvm_window.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "absl/memory/memory.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/thread.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // Linux 6.1
#endif

namespace quire {
namespace {

// How long the fault thread looks for the next fault before it sleeps: about what it takes to wake it, so that it never
// costs more than twice as much as the better choice would have (Karlin et al., "Competitive Snoopy Caching", 1988).
constexpr absl::Duration kSpin = absl::Microseconds(50);

}  // namespace

absl::StatusOr<std::unique_ptr<KvmWindow>> KvmWindow::Create(FaultHandler& memory, int pool_fd, FrameRange reservation,
                                                             const KvmWindowOptions& options) {
  QUIRE_CHECK(memory.size() <= reservation.size());
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Create();
  if (!uffd.ok()) return uffd.status();
  absl::StatusOr<Mapping> window = Mapping::MapAligned(memory.size().bytes(), ByteCount::Bytes(kBlockSize),
                                                       PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, pool_fd,
                                                       static_cast<off_t>(reservation.begin().value() * kPageSize));
  if (!window.ok()) return window.status();
  // No advice about huge pages: khugepaged stays away from shared memory without any, and MADV_COLLAPSE would refuse
  // what is advised against. A child of fork() would keep pages mapped.
  madvise(window->data(), window->size().in_bytes(), MADV_DONTFORK);
  if (absl::Status status = uffd->Register({window->hva(), window->size()}); !status.ok()) return status;
  UniqueFd stop(eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return absl::ErrnoToStatus(errno, "create an eventfd");
  return absl::WrapUnique(new KvmWindow(memory, *std::move(window), *std::move(uffd), std::move(stop), options));
}

KvmWindow::KvmWindow(FaultHandler& memory, Mapping window, Userfaultfd uffd, UniqueFd stop,
                     const KvmWindowOptions& options)
    : memory_(memory), options_(options), window_(std::move(window)), uffd_(std::move(uffd)), stop_(std::move(stop)) {
  memory_.notifiers().Register(this);
  fault_thread_ = std::thread([this] { ServeFaults(); });
  slow_thread_ = std::thread([this] { ServeSlowly(); });
}

KvmWindow::~KvmWindow() {
  const uint64_t one = 1;
  QUIRE_CHECK(write(stop_.get(), &one, sizeof one) == sizeof one);
  {
    absl::MutexLock lock(&slow_lock_);
    stopping_ = true;
  }
  fault_thread_.join();
  slow_thread_.join();
  memory_.notifiers().Unregister(this);
}

void KvmWindow::ServeFaults() {
  SetThreadName("quire-fault");
  std::vector<Userfaultfd::Fault> faults;
  pollfd fds[] = {{.fd = uffd_.fd(), .events = POLLIN, .revents = 0},
                  {.fd = stop_.get(), .events = POLLIN, .revents = 0}};
  MonotonicTime spin_until;
  for (;;) {
    faults.clear();
    while (RealClock().Now() < spin_until && !uffd_.Read(faults)) {
    }
    if (faults.empty()) {
      if (poll(fds, 2, -1) < 0 && errno == EINTR) continue;
      if (fds[1].revents != 0) return;
      if (!uffd_.Read(faults)) continue;  // the fault went away: its vCPU was interrupted
    }
    const MonotonicTime now = RealClock().Now();
    for (const Userfaultfd::Fault& fault : faults) {
      counters_.faults.Add();
      const Pending pending{.gfn = Gfn((fault.address.value() - base().value()) >> kPageShift),
                            .access = fault.write ? Access::kWrite : Access::kRead,
                            .since = now};
      if (Serve(pending, Wait::kMustNot)) continue;
      counters_.slow.Add();
      absl::MutexLock lock(&slow_lock_);
      slow_.push_back(pending);
    }
    if (options_.spin) spin_until = RealClock().Now() + kSpin;
  }
}

void KvmWindow::ServeSlowly() {
  SetThreadName("quire-slowfault");
  for (;;) {
    Pending fault;
    {
      absl::MutexLock lock(&slow_lock_);
      const auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(slow_lock_) { return stopping_ || !slow_.empty(); };
      slow_lock_.Await(absl::Condition(&work));
      if (stopping_) return;
      fault = slow_.front();
      slow_.pop_front();
    }
    Serve(fault, Wait::kMay);
  }
}

bool KvmWindow::Serve(const Pending& fault, Wait wait) {
  for (;;) {
    const InvalidationTracker::Snapshot snapshot = tracker_.TakeSnapshot();
    const absl::StatusOr<Resolution> resolution = memory_.Resolve(fault.gfn, fault.access, wait);
    if (!resolution.ok()) {
      if (absl::IsUnavailable(resolution.status())) return false;
      uffd_.Wake(Place(GfnRange(fault.gfn, kOnePage)));  // to find the window closed
      return true;
    }
    absl::Status installed;
    {
      absl::MutexLock lock(&lock_);
      installed = tracker_.MustRetry(snapshot, resolution->range) ? absl::UnavailableError("invalidated meanwhile")
                                                                  : Install(resolution->range);
    }
    if (installed.ok()) break;
    QUIRE_CHECK(absl::IsUnavailable(installed));
    counters_.retries.Add();
    std::this_thread::yield();  // to whoever invalidates
  }
  counters_.latency.Record(RealClock().Now() - fault.since);
  return true;
}

// MADV_COLLAPSE maps a 2 MiB page of the file that is all there by one entry, and first makes one of small pages. It
// may refuse for many reasons, none of which is an error here: the pages are there, and can be mapped one by one.
absl::Status KvmWindow::Install(GfnRange range) {
  const HvaRange place = Place(range);
  if (range.size() == kOneBlock) {
    if (madvise(place.begin.pointer(), place.size.in_bytes(), MADV_COLLAPSE) == 0) {
      counters_.blocks.Add();
      uffd_.Wake(place);
      return absl::OkStatus();
    }
    counters_.blocks_refused.Add();
  }
  return uffd_.Continue(place);
}

HvaRange KvmWindow::Place(GfnRange range) const {
  return {.begin = base() + (range.begin() - Gfn(0)).bytes(), .size = range.size().bytes()};
}

absl::Status KvmWindow::InvalidateRangeStart(const Invalidation& invalidation) {
  {
    // From here on nothing of the range is installed; what is installed is dropped below.
    absl::MutexLock lock(&lock_);
    tracker_.Begin();
    tracker_.AddRange(invalidation.range);
  }
  counters_.invalidations.Add();
  const HvaRange place = Place(invalidation.range);
  int result;
  do {
    result = madvise(place.begin.pointer(), place.size.in_bytes(), MADV_DONTNEED);
  } while (result != 0 && (errno == EAGAIN || errno == EINTR));
  QUIRE_CHECK(result == 0);
  return absl::OkStatus();
}

void KvmWindow::InvalidateRangeEnd(const Invalidation&) {
  absl::MutexLock lock(&lock_);
  tracker_.End();
}

void KvmWindow::Release() {
  // The whole window, in one piece. What is mapped in it stays out of reach.
  QUIRE_CHECK(mprotect(window_.data(), window_.size().in_bytes(), PROT_NONE) == 0);
}

}  // namespace quire
