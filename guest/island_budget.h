// How many pages of all guests may be shown to them by mappings of their own.
//
// A guest under KVM sees a shared frame through an island of its window (mmu/islands.h). Each may cost two of the
// process's mappings: itself, and what it cuts the window into. The kernel allows a process vm.max_map_count of them,
// 65530 as it comes, and once they are used up, allocating a large piece of memory and creating a thread fail too. So
// whoever decides to share a page charges it here first, and leaves it unshared when that fails.
#ifndef QUIRE_GUEST_ISLAND_BUDGET_H_
#define QUIRE_GUEST_ISLAND_BUDGET_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/counters.h"
#include "base/units.h"

namespace quire {

// Thread safe.
class IslandBudget {
 public:
  // Where the kernel says how many mappings a process may have, and which this one has. For tests.
  struct Files {
    std::string max_map_count = "/proc/sys/vm/max_map_count";
    std::string maps = "/proc/self/maps";
  };

  explicit IslandBudget(PageCount limit) : limit_(limit) {}
  IslandBudget(const IslandBudget&) = delete;
  IslandBudget& operator=(const IslandBudget&) = delete;

  // The limit for this process, once it has mapped what it is going to need: half of the mappings that are left, less a
  // reserve of 4096. The reserve is for what comes later (a thread takes two mappings, a guest about ten, an island
  // while it is made or unmade four), and for the C library, which maps whatever large piece it allocates.
  // Zero when less than the reserve is left. Errors: a file cannot be read.
  static absl::StatusOr<PageCount> LimitOfProcess(const Files& files, uint64_t guests = 0);
  // `guests` are yet to come, and take their mappings out of the same number.
  static absl::StatusOr<PageCount> LimitOfProcess(uint64_t guests = 0) { return LimitOfProcess(Files(), guests); }

  // False, and nothing charged, if it would pass the limit.
  [[nodiscard]] bool TryCharge(PageCount pages);
  void Uncharge(PageCount pages);

  PageCount limit() const { return limit_; }
  PageCount charged() const { return PageCount(charged_.load(std::memory_order_relaxed)); }
  PageCount peak() const { return PageCount(peak_.value()); }
  // Times that TryCharge said no.
  uint64_t refused() const { return refused_.value(); }

 private:
  const PageCount limit_;
  std::atomic<uint64_t> charged_ = 0;
  Peak peak_;
  Counter refused_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_ISLAND_BUDGET_H_
