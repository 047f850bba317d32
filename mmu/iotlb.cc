#include "mmu/iotlb.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "mmu/guest_copy.h"

namespace quire {
namespace {

constexpr uint64_t kFilterBits = 64;

uint64_t FilterOf(GfnRange range) {
  if (range.empty()) return 0;
  const uint64_t first = BlockOf(range.begin()).value();
  const uint64_t last = BlockOf(range.end() - kOnePage).value();
  if (last - first >= kFilterBits - 1) return ~uint64_t{0};
  uint64_t filter = 0;
  for (uint64_t block = first; block <= last; ++block) filter |= uint64_t{1} << block % kFilterBits;
  return filter;
}

// Calls copy(page, offset within it, offset from the beginning, size) for each page of a range; ends at its first
// error.
template <class Copy>
absl::Status ForEachPage(ByteCount begin, size_t size, Copy copy) {
  for (size_t done = 0; done < size;) {
    const Gpa at(begin.in_bytes() + done);
    const size_t part = std::min<size_t>(size - done, kPageSize - at.offset_in_page());
    if (absl::Status status = copy(at.gfn(), at.offset_in_page(), done, part); !status.ok()) return status;
    done += part;
  }
  return absl::OkStatus();
}

}  // namespace

Iotlb::Iotlb(FaultHandler& memory)
    : IntervalSubscription(GfnRange(Gfn(0), memory.size())), memory_(memory), notifier_(memory.notifiers()) {
  notifier_.Insert(this);
}

Iotlb::~Iotlb() { notifier_.Remove(this); }

absl::Status Iotlb::Read(ByteCount from, absl::Span<std::byte> to) {
  return ForEachPage(from, to.size(), [&](Gfn gfn, uint64_t offset, size_t done, size_t size) {
    return WithPage(gfn, Access::kRead, [&](std::byte* page) { CopyFromGuest(page + offset, to.subspan(done, size)); });
  });
}

absl::Status Iotlb::Write(ByteCount to, absl::Span<const std::byte> from) {
  return ForEachPage(to, from.size(), [&](Gfn gfn, uint64_t offset, size_t done, size_t size) {
    return WithPage(gfn, Access::kWrite,
                    [&](std::byte* page) { CopyToGuest(page + offset, from.subspan(done, size)); });
  });
}

absl::Status Iotlb::WithPage(Gfn gfn, Access access, absl::FunctionRef<void(std::byte*)> use) {
  {
    absl::MutexLock lock(&mu_);
    if (std::byte* const page = UseLocked(gfn, access); page != nullptr) {
      counters_.hits.Add();
      use(page);
      return absl::OkStatus();
    }
  }
  return Miss(gfn, access, use);
}

// The invalidation that makes it retry may be of other pages: then Resolve finds the page where it left it.
absl::Status Iotlb::Miss(Gfn gfn, Access access, absl::FunctionRef<void(std::byte*)> use) {
  counters_.misses.Add();
  for (;;) {
    const uint64_t sequence = notifier_.ReadBegin(*this);
    const absl::StatusOr<Resolution> resolution = memory_.Resolve(gfn, access, Wait::kMay);
    if (!resolution.ok()) return resolution.status();
    QUIRE_CHECK(resolution->range.contains(gfn) && Allows(resolution->protection, access));
    {
      absl::MutexLock lock(&mu_);
      if (released_) {
        return absl::CancelledError(
            absl::StrCat("the guest was released while a device wanted its page ", gfn.value()));
      }
      // First into the table, and so into the filter; pairs with Invalidate.
      InsertLocked(*resolution);
      if (!ReadRetry(sequence)) {
        use(memory_.HostAddress(resolution->FrameOf(gfn)));
        return absl::OkStatus();
      }
      DropLocked(resolution->range);
    }
    counters_.retries.Add();
    std::this_thread::yield();  // to whoever invalidates
  }
}

const Iotlb::Translation* Iotlb::FindLocked(Gfn gfn) const {
  const Translation& hinted = table_[hints_[gfn.value() % kTranslations]];
  if (hinted.pages.range.contains(gfn)) return &hinted;
  const auto found =
      std::find_if(table_.begin(), table_.end(), [gfn](const Translation& t) { return t.pages.range.contains(gfn); });
  return found != table_.end() ? &*found : nullptr;
}

std::byte* Iotlb::UseLocked(Gfn gfn, Access access) {
  const Translation* const found = FindLocked(gfn);
  if (found == nullptr || !Allows(found->pages.protection, access)) return nullptr;
  const size_t place = static_cast<size_t>(found - table_.data());
  hints_[gfn.value() % kTranslations] = static_cast<uint8_t>(place);
  table_[place].last_use = ++uses_;
  return memory_.HostAddress(found->pages.FrameOf(gfn));
}

void Iotlb::InsertLocked(const Resolution& resolution) {
  DropLocked(resolution.range);
  const auto by_use = [](const Translation& a, const Translation& b) { return a.last_use < b.last_use; };
  Translation& place = *std::min_element(table_.begin(), table_.end(), by_use);
  if (!place.pages.range.empty()) counters_.displaced.Add();
  place = {.pages = resolution, .last_use = ++uses_};
  UpdateFilterLocked();
}

uint64_t Iotlb::DropLocked(GfnRange range) {
  uint64_t dropped = 0;
  for (Translation& translation : table_) {
    if (!translation.pages.range.overlaps(range)) continue;
    translation = Translation();
    ++dropped;
  }
  if (dropped > 0) UpdateFilterLocked();
  return dropped;
}

void Iotlb::UpdateFilterLocked() {
  uint64_t filter = 0;
  for (const Translation& translation : table_) filter |= FilterOf(translation.pages.range);
  filter_.exchange(filter, std::memory_order_acq_rel);
}

// The filter's changes have one order. If this look at it comes after the insertion in Miss, it finds the bit and
// waits for the lock; or the bit is gone again, and with it, by acquire, the use. If it comes before, the insertion
// acquires from it, so that ReadRetry finds the sequence changed. A plain load could come too early.
bool Iotlb::Invalidate(const Invalidation& invalidation, uint64_t sequence) {
  SetSequence(sequence);
  counters_.invalidations.Add();
  const bool release = invalidation.event == InvalidateEvent::kRelease;
  if (!release && (filter_.fetch_or(0, std::memory_order_acq_rel) & FilterOf(invalidation.range)) == 0) {
    counters_.filtered.Add();
    return true;
  }
  absl::MutexLock lock(&mu_);
  counters_.dropped.Add(DropLocked(invalidation.range));
  released_ |= release;
  return true;
}

std::optional<FrameNumber> Iotlb::Lookup(Gfn gfn) const {
  absl::MutexLock lock(&mu_);
  const Translation* const found = FindLocked(gfn);
  if (found == nullptr) return std::nullopt;
  return found->pages.FrameOf(gfn);
}

}  // namespace quire
