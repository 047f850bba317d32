// A guest's memory for tests of a software MMU: pages that move between two frames each, and poison what they leave.
#ifndef QUIRE_MMU_FAKE_MEMORY_H_
#define QUIRE_MMU_FAKE_MEMORY_H_

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/mapping.h"
#include "base/units.h"
#include "guest/fault_handler.h"
#include "notifiers/notifier_chain.h"

namespace quire {

// Block b of the guest has frame blocks 2b and 2b + 1; each of its pages lies at its place in one of the two. Every
// page starts with its own number. Thread safe: one lock, held across an invalidation as a block's lock is.
class FakeMemory final : public FaultHandler {
 public:
  static constexpr uint64_t kTag = 0x7175697265000000;  // + gfn: the first word of each page

  explicit FakeMemory(uint64_t blocks) ABSL_NO_THREAD_SAFETY_ANALYSIS
      : size_(PageCount::OfBlocks(blocks)),
        pages_(size_.in_pages()),
        bytes_(*Mapping::Map((size_ * 2).bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    for (Gfn gfn; gfn < Gfn(0) + size_; ++gfn) *Word(Address(gfn)) = kTag + gfn.value();
  }

  absl::StatusOr<Resolution> Resolve(Gfn gfn, Access access, Wait) override {
    resolves_.fetch_add(1, std::memory_order_relaxed);
    absl::StatusOr<Resolution> answer = Answer(gfn, access);
    if (before_return) before_return();
    return answer;
  }
  std::byte* HostAddress(FrameNumber frame) override { return bytes_.data() + (frame - FrameNumber(0)).in_bytes(); }
  NotifierChain& notifiers() override { return notifiers_; }
  PageCount size() const override { return size_; }

  // How many pages an answer covers at most, a power of two up to 512.
  void set_around(PageCount around) { around_.store(around.in_pages()); }
  // Called when the answer to a fault has been found and not been returned yet.
  std::function<void()> before_return;

  // Moves pages to their frame in the first (0) or second (1) block; content moves along, what is left is poisoned.
  void Move(GfnRange range, int side) {
    absl::MutexLock lock(&mu_);
    ScopedInvalidation invalidation(notifiers_, {.range = range, .event = InvalidateEvent::kMigrate});
    std::vector<std::byte*> left;
    for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
      std::byte* const from = Address(gfn);
      if (std::exchange(pages_[gfn.value()].side, side) == side) continue;
      std::memcpy(Address(gfn), from, kPageSize);
      left.push_back(from);
    }
    invalidation.End();
    for (std::byte* page : left) std::memset(page, 0xdb, kPageSize);
  }
  // From now on writes fault once; then the page is writable again.
  void WriteProtect(GfnRange range) {
    absl::MutexLock lock(&mu_);
    ScopedInvalidation invalidation(notifiers_, {.range = range, .event = InvalidateEvent::kProtectionRange});
    for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
      pages_[gfn.value()].protection = Protection::kReadOnly;
    }
  }

  FrameNumber FrameOf(Gfn gfn) const {
    absl::MutexLock lock(&mu_);
    return Frame(gfn);
  }
  Protection ProtectionOf(Gfn gfn) const {
    absl::MutexLock lock(&mu_);
    return pages_[gfn.value()].protection;
  }
  uint64_t resolves() const { return resolves_.load(std::memory_order_relaxed); }

  static uint64_t* Word(std::byte* page, int i = 0) { return reinterpret_cast<uint64_t*>(page) + i; }

 private:
  struct Page {
    int side = 0;
    Protection protection = Protection::kReadWrite;
    bool operator==(const Page&) const = default;
  };

  FrameNumber Frame(Gfn gfn) const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    const uint64_t block = 2 * BlockOf(gfn).value() + pages_[gfn.value()].side;
    return FrameNumber(block * kPagesPerBlock + IndexInBlock(gfn));
  }
  std::byte* Address(Gfn gfn) ABSL_SHARED_LOCKS_REQUIRED(mu_) { return HostAddress(Frame(gfn)); }

  absl::StatusOr<Resolution> Answer(Gfn gfn, Access access) {
    if (gfn.value() >= size_.in_pages()) return absl::OutOfRangeError("no such page");
    absl::MutexLock lock(&mu_);
    Page& page = pages_[gfn.value()];
    if (access == Access::kWrite) page.protection = Protection::kReadWrite;
    const uint64_t around = around_.load();
    const GfnRange limits(Gfn(gfn.value() / around * around), PageCount(around));
    Gfn begin = gfn, end = gfn + kOnePage;
    while (begin > limits.begin() && pages_[begin.value() - 1] == page) begin = begin - kOnePage;
    while (end < limits.end() && pages_[end.value()] == page) ++end;
    return Resolution{GfnRange(begin, end), Frame(begin), page.protection};
  }

  const PageCount size_;
  NotifierChain notifiers_;
  mutable absl::Mutex mu_;
  std::vector<Page> pages_ ABSL_GUARDED_BY(mu_);
  Mapping bytes_;
  std::atomic<uint64_t> around_{1};
  std::atomic<uint64_t> resolves_{0};
};

}  // namespace quire

#endif  // QUIRE_MMU_FAKE_MEMORY_H_
