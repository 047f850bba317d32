#include "guest/island_budget.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {
namespace {

constexpr uint64_t kReserve = 4096;
constexpr uint64_t kMappingsOfAnIsland = 2;
constexpr uint64_t kMappingsOfAGuest = 12;  // window, map, vCPU and three threads, each with a guard, and a spare

absl::Status CannotRead(const std::string& path) {
  return absl::FailedPreconditionError(absl::StrCat("cannot read ", path, ", which says how many pages may be shared"));
}

}  // namespace

absl::StatusOr<PageCount> IslandBudget::LimitOfProcess(const Files& files, uint64_t guests) {
  uint64_t most = 0;
  if (!(std::ifstream(files.max_map_count) >> most)) return CannotRead(files.max_map_count);
  std::ifstream maps(files.maps);
  if (!maps) return CannotRead(files.maps);
  const auto lines = std::count(std::istreambuf_iterator<char>(maps), std::istreambuf_iterator<char>(), '\n');
  const uint64_t kept = static_cast<uint64_t>(lines) + kReserve + guests * kMappingsOfAGuest;
  return most > kept ? PageCount((most - kept) / kMappingsOfAnIsland) : PageCount();
}

bool IslandBudget::TryCharge(PageCount pages) {
  uint64_t charged = charged_.load(std::memory_order_relaxed);
  do {
    if (PageCount(charged) + pages > limit_) {
      refused_.Add();
      return false;
    }
  } while (!charged_.compare_exchange_weak(charged, charged + pages.in_pages(), std::memory_order_relaxed));
  peak_.Note(charged + pages.in_pages());
  return true;
}

void IslandBudget::Uncharge(PageCount pages) {
  const uint64_t before = charged_.fetch_sub(pages.in_pages(), std::memory_order_relaxed);
  QUIRE_CHECK(before >= pages.in_pages());
}

}  // namespace quire
