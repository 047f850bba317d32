#include "mmu/kvm_window.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "absl/memory/memory.h"
#include "absl/time/clock.h"
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

// How long a fault that needs a mapping waits before it looks for one again. It waits for other threads of the process,
// and nobody tells it when they are done.
constexpr absl::Duration kUntilMappingsAreGivenBack = absl::Milliseconds(1);

}  // namespace

absl::StatusOr<std::unique_ptr<KvmWindow>> KvmWindow::Create(FaultHandler& memory, int pool_fd, FrameRange reservation,
                                                             const KvmWindowOptions& options,
                                                             absl::Span<const WindowView> views) {
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
  auto made = absl::WrapUnique(new KvmWindow(memory, pool_fd, reservation.begin(), *std::move(window), *std::move(uffd),
                                             std::move(stop), options));
  absl::Status status;
  {
    absl::MutexLock lock(&made->lock_);
    for (const WindowView& view : views) status.Update(made->islands_.Show(view));
  }
  made->Start();
  if (!status.ok()) return status;
  return made;
}

KvmWindow::KvmWindow(FaultHandler& memory, int pool_fd, FrameNumber home, Mapping window, Userfaultfd uffd,
                     UniqueFd stop, const KvmWindowOptions& options)
    : memory_(memory),
      options_(options),
      window_(std::move(window)),
      uffd_(std::move(uffd)),
      stop_(std::move(stop)),
      home_(home),
      barred_(window_.hva()),
      islands_({window_.hva(), window_.size()}, pool_fd, home, uffd_) {}

void KvmWindow::Start() {
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
    if (Serve(fault, Wait::kMay)) continue;
    absl::SleepFor(kUntilMappingsAreGivenBack);
    absl::MutexLock lock(&slow_lock_);
    slow_.push_back(fault);
  }
}

bool KvmWindow::Serve(const Pending& fault, Wait wait) {
  Access access = fault.access;
  for (bool retry = false;; retry = true) {
    const InvalidationTracker::Snapshot snapshot = tracker_.TakeSnapshot();
    const absl::StatusOr<Resolution> resolution = memory_.Resolve(fault.gfn, access, wait);
    const bool lost = options_.bars_lost_pages && absl::IsDataLoss(resolution.status());
    if (!resolution.ok() && !lost) {
      if (absl::IsUnavailable(resolution.status())) return false;
      uffd_.Wake(Place(GfnRange(fault.gfn, kOnePage)));  // to find the window closed
      return true;
    }
    QUIRE_CHECK(lost || Allows(resolution->protection, access));
    const GfnRange range = lost ? GfnRange(fault.gfn, kOnePage) : resolution->range;
    absl::Status installed;
    {
      absl::MutexLock lock(&lock_);
      installed = tracker_.MustRetry(snapshot, range) ? absl::UnavailableError("invalidated meanwhile")
                  : lost                              ? Bar(fault.gfn)
                                                      : Install(*resolution);
    }
    if (installed.ok()) break;
    if (absl::IsResourceExhausted(installed)) {
      if (lost || resolution->protection == Protection::kReadWrite) return false;
      access = Access::kWrite;
      continue;
    }
    QUIRE_CHECK(absl::IsUnavailable(installed));
    counters_.retries.Add();
    // The first time it may have been this thread: Resolve invalidates a shared page that is to be written.
    if (retry) std::this_thread::yield();  // to whoever invalidates
  }
  counters_.latency.Record(RealClock().Now() - fault.since);
  return true;
}

absl::Status KvmWindow::Install(const Resolution& resolution) {
  if (resolution.protection == Protection::kReadOnly) return InstallIsland(resolution.range, resolution.frame);
  // The kernel lets a guest write its own frames only.
  QUIRE_CHECK(resolution.frame == home_ + (resolution.range.begin() - Gfn(0)));
  return InstallHome(resolution.range);
}

// MADV_COLLAPSE maps a 2 MiB page of the file that is all there by one entry, and first makes one of small pages. It
// may refuse for many reasons, none of which is an error here: the pages are there, and can be mapped one by one.
absl::Status KvmWindow::InstallHome(GfnRange range) {
  if (absl::Status status = LeaveView(range); !status.ok()) return status;
  // None is left, unless an invalidation could not unmake it.
  if (absl::Status status = UnmakeIslands(range); !status.ok()) return status;
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

// An island that is there already is made again: two vCPUs may have waited for it, or the host kernel has unmapped it.
absl::Status KvmWindow::InstallIsland(GfnRange range, FrameNumber frame) {
  absl::Status status = absl::ResourceExhaustedError("this host cannot make islands");
  if (can_share()) {
    const PageCount before = islands_.size();
    status = islands_.Make(range, frame);
    NoteRemapping(before);
  }
  if (status.ok()) {
    uffd_.Wake(Place(range));
  } else {
    counters_.islands_refused.Add();
  }
  return status;
}

// The home has to be there: what is barred, and given back, is a page of it.
absl::Status KvmWindow::Bar(Gfn gfn) {
  const GfnRange page(gfn, kOnePage);
  if (!closed_) {
    if (absl::Status status = LeaveView(page); !status.ok()) return status;
    if (absl::Status status = UnmakeIslands(page); !status.ok()) return status;
    if (!barred_.Bar(gfn, RealClock().Now())) return absl::ResourceExhaustedError("another page is barred");
    counters_.lost_pages.Add();
  }
  uffd_.Wake(Place(page));
  return absl::OkStatus();
}

std::optional<Gfn> KvmWindow::TakeLostPage() {
  absl::MutexLock lock(&lock_);
  if (closed_) return std::nullopt;
  return barred_.Lift();
}

absl::Status KvmWindow::LeaveView(GfnRange range) {
  const absl::StatusOr<bool> left = islands_.LeaveView(range);
  if (!left.ok()) {
    counters_.homes_refused.Add();
  } else if (*left) {
    counters_.views_left.Add();
    NoteRemapping(islands_.size());
  }
  return left.status();
}

absl::Status KvmWindow::UnmakeIslands(GfnRange range) {
  if (islands_.HullIn(range).empty()) return absl::OkStatus();
  const PageCount before = islands_.size();
  const absl::Status status = islands_.Unmake(range);
  NoteRemapping(before);
  if (!status.ok()) counters_.homes_refused.Add();
  return status;
}

void KvmWindow::NoteRemapping(PageCount before) {
  const PageCount now = islands_.size();
  if (now > before) counters_.islands_made.Add((now - before).in_pages());
  if (now < before) counters_.islands_unmade.Add((before - now).in_pages());
  remappings_.store(remappings_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

bool KvmWindow::AwaitRemapping(RemapSequence before) {
  absl::MutexLock lock(&lock_);  // held for as long as a mapping is being replaced
  return !closed_ && remappings() != before;
}

HvaRange KvmWindow::Place(GfnRange range) const {
  return {.begin = base() + (range.begin() - Gfn(0)).bytes(), .size = range.size().bytes()};
}

absl::Status KvmWindow::InvalidateRangeStart(const Invalidation& invalidation) {
  const GfnRange range = invalidation.range;
  GfnRange unmade(range.begin(), range.begin());
  {
    // From here on nothing of the range is installed; what is installed is dropped here, where there are islands, or
    // below.
    absl::MutexLock lock(&lock_);
    tracker_.Begin();
    tracker_.AddRange(range);
    if (!closed_) barred_.LiftIn(range);
    const GfnRange islands = islands_.HullIn(range);
    if (!islands.empty() && UnmakeIslands(range).ok()) unmade = islands;
  }
  counters_.invalidations.Add();
  Drop(GfnRange(range.begin(), unmade.begin()));
  Drop(GfnRange(unmade.end(), range.end()));
  return absl::OkStatus();
}

void KvmWindow::Drop(GfnRange range) {
  if (range.empty()) return;
  const HvaRange place = Place(range);
  int result;
  do {
    result = madvise(place.begin.pointer(), place.size.in_bytes(), MADV_DONTNEED);
  } while (result != 0 && (errno == EAGAIN || errno == EINTR));
  QUIRE_CHECK(result == 0);
}

void KvmWindow::InvalidateRangeEnd(const Invalidation&) {
  absl::MutexLock lock(&lock_);
  tracker_.End();
}

void KvmWindow::Release() {
  absl::MutexLock lock(&lock_);
  closed_ = true;
  islands_.Close();
  // The whole window at once, whatever it is made of. What is mapped in it stays out of reach.
  QUIRE_CHECK(mprotect(window_.data(), window_.size().in_bytes(), PROT_NONE) == 0);
}

}  // namespace quire
