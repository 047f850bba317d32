// A balloon: memory that the guest gives back when asked to, and memory that it says it has no use for.
//
//   inflate, deflate   page numbers that the driver puts into the balloon, or takes out again
//   statistics         one buffer, which the driver fills each time that it gets it back
//   hints              free pages of a moment, within a round that the device begins; see Balloon::RequestHints
//   reports            free pages that the driver keeps aside until the device has answered
//
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.5; <linux/virtio_balloon.h>.
#ifndef QUIRE_VMM_VIRTIO_BALLOON_H_
#define QUIRE_VMM_VIRTIO_BALLOON_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "mmu/device_memory.h"
#include "vmm/virtio/balloon_offer.h"
#include "vmm/virtio/virtio_device.h"
#include "vmm/virtio/virtqueue.h"

namespace quire {

// Pages. A page that is given back twice counts twice.
struct BalloonCounters {
  Counter inflated;
  Counter deflated;
  Counter reported;
  Counter hinted;
  Counter kept;     // of those reported: with a pattern in them that the guest wants to find again
  Counter refused;  // page numbers, or parts of reports, that are not whole pages of the guest's memory
};

class Balloon final : public VirtioDevice {
 public:
  // As the guest says; it need not be true.
  struct Statistics {
    absl::Time at = absl::InfinitePast();  // when the answer came; never, at first
    // Pages and events since the guest began, as /proc/vmstat has them.
    std::optional<ByteCount> swapped_in;
    std::optional<ByteCount> swapped_out;
    std::optional<uint64_t> major_faults;
    std::optional<uint64_t> minor_faults;
    std::optional<uint64_t> huge_allocations;  // of hugetlb pages
    std::optional<uint64_t> huge_failures;
    // As /proc/meminfo has them.
    std::optional<ByteCount> free;
    std::optional<ByteCount> total;
    std::optional<ByteCount> available;
    std::optional<ByteCount> caches;
  };

  // `memory` outlives it. `now` is called on the device's thread.
  explicit Balloon(DeviceMemory& memory, BalloonOffer offer = {}, std::function<absl::Time()> now = absl::Now);

  const BalloonOffer& offer() const { return offer_; }

  // --- Any thread.

  // How large the balloon is to be. The driver may take its time, or never get there. At most 2^32 - 1 pages.
  void SetTarget(PageCount target);
  PageCount target() const { return PageCount(target_.load(std::memory_order_relaxed)); }
  // How large it is, as the driver says.
  PageCount actual() const { return PageCount(actual_.load(std::memory_order_relaxed)); }

  // Asks for statistics. The answer is there when statistics().at is later than this call.
  void RequestStatistics();
  Statistics statistics() const ABSL_LOCKS_EXCLUDED(lock_);

  // Begins a round of hints; counters().hinted grows by what the guest has free at that time, and the guest has the
  // pages back at its end. They are only counted. A hint says that a page was free, and the guest may have taken it
  // back and written to it before the hint was read: who copies memory can tell, who discards it cannot. What is to be
  // discarded is reported.
  void RequestHints();

  const BalloonCounters& counters() const { return counters_; }

  // --- VirtioDevice
  const char* name() const override { return "virtio-balloon"; }
  uint32_t id() const override;
  uint64_t features() const override;
  std::vector<uint16_t> queue_sizes() const override;
  void ReadConfig(uint64_t offset, absl::Span<std::byte> data) override;
  void WriteConfig(uint64_t offset, absl::Span<const std::byte> data) override;
  void SetFeatures(uint64_t features) override;
  absl::Status Process(int queue, Virtqueue& virtqueue) override;
  void Reset() override;

 private:
  // Those that the driver's features leave out stay unused; the numbers are the same.
  enum Queue : int { kInflate, kDeflate, kStatistics, kHints, kReports, kQueues };

  absl::Status TakePages(int queue, const Chain& chain);
  void GiveBack(std::vector<uint32_t> pages);
  // Counts what is not the guest's memory as refused; returns how many pages were.
  PageCount Discard(Gpa begin, PageCount size);
  absl::Status ProcessStatistics(Virtqueue& virtqueue) ABSL_LOCKS_EXCLUDED(lock_);
  absl::Status ReadStatistics(const Chain& chain) ABSL_LOCKS_EXCLUDED(lock_);
  absl::Status TakeHint(const Chain& chain);
  void TakeReport(const Chain& chain);
  void TakeReport(const std::vector<Segment>& segments);
  // Whether free pages hold a pattern other than zeros.
  bool KeepsFreePages() const { return poisons_ && poison_.load(std::memory_order_relaxed) != 0; }

  DeviceMemory& memory_;
  const BalloonOffer offer_;
  const std::function<absl::Time()> now_;
  BalloonCounters counters_;

  // The configuration space.
  std::atomic<uint32_t> target_ = 0;
  std::atomic<uint32_t> actual_ = 0;
  std::atomic<uint32_t> hint_command_;
  std::atomic<uint32_t> poison_ = 0;

  std::atomic<bool> poisons_ = false;            // VIRTIO_BALLOON_F_PAGE_POISON
  std::atomic<bool> statistics_wanted_ = false;  // and not asked for yet

  // The device's thread's, and Reset's.
  bool awaits_statistics_ = false;  // the driver has its buffer, and is to fill it
  uint32_t hint_round_ = 0;         // whose hints are coming in, 0 for none

  mutable absl::Mutex lock_;
  Statistics statistics_ ABSL_GUARDED_BY(lock_);
  uint32_t last_hint_round_ ABSL_GUARDED_BY(lock_);
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_BALLOON_H_
