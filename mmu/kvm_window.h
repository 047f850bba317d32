// The range of host memory that KVM maps as a guest's memory: the guest's reservation in the pool's file, mapped one to
// one, served by userfaultfd.
//
// It is a secondary MMU like any other. To install a translation is to map pages of the file into the window
// (UFFDIO_CONTINUE; for a whole block MADV_COLLAPSE, which maps it by one entry); to drop translations is MADV_DONTNEED
// of the window, on which the host kernel's own mmu notifier zaps KVM's page tables before the call returns. One VMA,
// registered once, before any memslot points at it; but for islands.
//
//   vCPU ~> KVM ~> userfaultfd ~> fault thread: Resolve, Continue ~> vCPU goes on
//                                     | would have to wait
//                                     +--> slow thread: Resolve with reclaim, Continue
//
// A resolution that is read-only, to frames which may be anybody's, becomes an *island*: those frames are mapped over
// the guest's own, protected against writes (mmu/islands.h). A write to it is a fault like any other. `memory` answers
// it with the page's own frame, having invalidated the page, on which its own mapping has been put back; so does every
// invalidation of an island. Where the process has no mapping left to make one, a read is resolved as if it were a
// write, so that the guest gets a page of its own.
//
// While an island is made a guest's write to it, and while one is unmade any access, ends KVM_RUN with EFAULT and
// without an address. A vCPU's thread tells that from an error so:
//
//   const KvmWindow::RemapSequence before = window.remappings();
//   ... KVM_RUN: EFAULT ...
//   if (window.AwaitRemapping(before)) run it again
//
// The races are drawn in docs/locking.md, "Islands". A page that is lost (DataLoss) is made such an error on purpose,
// for a guest that is told of it: TakeLostPage (mmu/barred_page.h).
//
// A clone's window shows its template's frames where the clone has none of its own: a view (mmu/islands.h).
//
// When the guest is stopped, Release closes the window: it is protected against all access. A fault that cannot be
// served any more is woken, and KVM_RUN ends with EFAULT. Leaving it asleep for a signal to end it would do on
// Linux 6.2 and later only; before, KVM's faults wait for userfaultfd in a sleep that a kill alone interrupts.
#ifndef QUIRE_MMU_KVM_WINDOW_H_
#define QUIRE_MMU_KVM_WINDOW_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/mapping.h"
#include "base/thread.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "guest/fault_handler.h"
#include "mmu/barred_page.h"
#include "mmu/islands.h"
#include "mmu/userfaultfd.h"
#include "notifiers/invalidation_tracker.h"
#include "notifiers/mmu_notifier.h"

namespace quire {

struct WindowCounters {
  Counter faults;            // events read
  Counter slow;              // handed to the slow thread
  Counter retries;           // an invalidation came in between
  Counter invalidations;     // of a range, by MADV_DONTNEED, or by putting its home back where there are islands
  Counter blocks;            // mapped by one entry
  Counter blocks_refused;    // by the host kernel; mapped page by page
  Counter islands_made;      // pages
  Counter islands_unmade;    // pages: written to, or invalidated for another reason
  Counter islands_refused;   // times that one could not be made, for want of mappings; the guest got a page of its own
  Counter views_left;        // blocks whose view made place for the guest's own frames
  Counter homes_refused;     // times that there was no mapping left to put a home back; tried again later
  Counter lost_pages;        // times that a page was barred because it is lost
  LatencyHistogram latency;  // from an event's read to its wake-up
};

struct KvmWindowOptions {
  // After a fault, the fault thread looks for the next one for a moment before it sleeps. A wake-up on another CPU
  // takes as long as all else about a fault; but the CPU must be one that no vCPU wants.
  bool spin = false;
  // A page that is lost is barred, for the guest to be told of it. Otherwise such a guest has been stopped.
  bool bars_lost_pages = false;
};

// Thread safe.
class KvmWindow final : public MmuNotifier {
 public:
  // `memory` has its frames in `reservation` of the file `pool_fd`, page by page, and outlives the window.
  // `views`, what it shows at first in the place of these frames.
  // FailedPrecondition: the host lacks something. ResourceExhausted: the process has no mapping left.
  static absl::StatusOr<std::unique_ptr<KvmWindow>> Create(FaultHandler& memory, int pool_fd, FrameRange reservation,
                                                           const KvmWindowOptions& options = {},
                                                           absl::Span<const WindowView> views = {});
  // Nobody touches the window any more.
  ~KvmWindow() override;

  // What a memslot may point at, for as long as the window lives. 2 MiB aligned.
  Hva base() const { return window_.hva(); }
  ByteCount size() const { return memory_.size().bytes(); }

  // False: this host cannot make islands, and each read that is resolved to one is resolved again as a write.
  bool can_share() const { return uffd_.can_write_protect(); }

  // A moment in the history of the window's mappings, of which some are replaced as islands come and go.
  enum class RemapSequence : uint64_t {};
  RemapSequence remappings() const { return RemapSequence{remappings_.load(std::memory_order_acquire)}; }
  // Returns once no mapping is being replaced. True: one was in progress at some time since `before`, so that an access
  // that failed since then is to be tried again. False: it was not for that, or the guest has been stopped.
  bool AwaitRemapping(RemapSequence before) ABSL_LOCKS_EXCLUDED(lock_);

  // For a vCPU whose KVM_RUN failed while nothing was being replaced: the lost page that it has run into. Nothing: it
  // was not that, or another vCPU was faster; so that it has to try again.
  std::optional<Gfn> TakeLostPage() ABSL_LOCKS_EXCLUDED(lock_);

  const WindowCounters& counters() const { return counters_; }
  // CPU time of the threads that serve faults.
  absl::Duration cpu_time() { return CpuTimeOf(fault_thread_) + CpuTimeOf(slow_thread_); }

  // MmuNotifier
  absl::Status InvalidateRangeStart(const Invalidation& invalidation) override;
  void InvalidateRangeEnd(const Invalidation& invalidation) override;
  // Ends the guest's access to its memory for good: an access is an error of KVM_RUN (EFAULT) from now on.
  void Release() override;

 private:
  struct Pending {
    Gfn gfn;
    Access access;
    MonotonicTime since;
  };

  KvmWindow(FaultHandler& memory, int pool_fd, FrameNumber home, Mapping window, Userfaultfd uffd, UniqueFd stop,
            const KvmWindowOptions& options);

  void Start();
  void ServeFaults();
  void ServeSlowly();
  // True when the fault needs no more work here. False: it has to wait, and `wait` forbids that, or it is to be tried
  // again when other threads have given mappings back.
  bool Serve(const Pending& fault, Wait wait);
  // These map the pages and wake whoever waits for one. Errors: those of Userfaultfd::Continue; ResourceExhausted: the
  // process has no mapping left.
  absl::Status Install(const Resolution& resolution) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  absl::Status InstallHome(GfnRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  absl::Status InstallIsland(GfnRange range, FrameNumber frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Has the vCPU that touches the page find out that it is lost, and wakes it. Errors: as Install's; ResourceExhausted
  // also while another page is barred.
  absl::Status Bar(Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Puts the home back where a view is.
  absl::Status LeaveView(GfnRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Leaves no island in the range. ResourceExhausted: it could not.
  absl::Status UnmakeIslands(GfnRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Drops what is mapped in the range.
  void Drop(GfnRange range);
  // To be called whenever mappings have been replaced; there were `before` islands.
  void NoteRemapping(PageCount before) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  HvaRange Place(GfnRange range) const;

  FaultHandler& memory_;
  const KvmWindowOptions options_;
  const Mapping window_;
  Userfaultfd uffd_;
  const UniqueFd stop_;  // eventfd: readable when the threads shall end
  WindowCounters counters_;

  const FrameNumber home_;  // of the first page

  absl::Mutex lock_;             // installs and the tracker; held across UFFDIO_CONTINUE and mmap, never across a wait
  InvalidationTracker tracker_;  // changed under lock_
  BarredPage barred_ ABSL_GUARDED_BY(lock_);
  Islands islands_ ABSL_GUARDED_BY(lock_);
  bool closed_ ABSL_GUARDED_BY(lock_) = false;
  std::atomic<uint64_t> remappings_ = 0;  // that have ended; changed under lock_

  absl::Mutex slow_lock_;
  std::deque<Pending> slow_ ABSL_GUARDED_BY(slow_lock_);
  bool stopping_ ABSL_GUARDED_BY(slow_lock_) = false;

  std::thread fault_thread_;
  std::thread slow_thread_;
};

}  // namespace quire

#endif  // QUIRE_MMU_KVM_WINDOW_H_
