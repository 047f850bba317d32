#include "guest/clone/inheritors.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace quire {

ShareLink Inheritors::Add(GuestId clone, NotifierChain& chain, Gfn gfn, std::optional<ShareLink> link) {
  absl::MutexLock lock(&lock_);
  const Sharer page{.guest = clone, .gfn = gfn};
  if (link.has_value() && links_.IsOf(*link, page)) return *link;
  Clone& known = clones_[clone];
  known.chain = &chain;
  known.pages += kOnePage;
  return links_.Add(ChainOf(gfn), page);
}

void Inheritors::Remove(GuestId clone, Gfn gfn, ShareLink link) {
  absl::MutexLock lock(&lock_);
  if (!links_.IsOf(link, {.guest = clone, .gfn = gfn})) return;
  links_.Remove(ChainOf(gfn), link);
  Forget(clone);
}

void Inheritors::Forget(GuestId clone) {
  const auto known = clones_.find(clone);
  QUIRE_CHECK(known != clones_.end());
  known->second.pages -= kOnePage;
  if (known->second.pages == PageCount()) clones_.erase(known);
}

SharerChains::Chain& Inheritors::ChainOf(Gfn gfn) {
  std::unique_ptr<Chains>& chains = blocks_[BlockOf(gfn)];
  if (chains == nullptr) chains = std::make_unique<Chains>();
  return (*chains)[IndexInBlock(gfn)];
}

template <class Visit>
void Inheritors::ForEachChain(GfnRange range, Visit visit) const {
  for (BlockNumber number = BlockOf(range.begin()); FirstGfn(number) < range.end(); ++number) {
    const auto chains = blocks_.find(number);
    if (chains == blocks_.end()) continue;
    const GfnRange pages = PagesOf(number).Intersect(range);
    for (Gfn gfn = pages.begin(); gfn < pages.end(); ++gfn) visit((*chains->second)[IndexInBlock(gfn)]);
  }
}

// --- The template's pages change.

absl::Status Inheritors::InvalidateRangeStart(const Invalidation& invalidation) {
  const std::vector<Mapped> mapped = Detach(invalidation.range);
  // The pages of one clone in one block together: an invalidation costs much more than its length.
  for (size_t i = 0; i < mapped.size();) {
    const Mapped& first = mapped[i];
    GfnRange hull;
    for (; i < mapped.size() && mapped[i].clone == first.clone && BlockOf(mapped[i].gfn) == BlockOf(first.gfn); ++i) {
      hull = hull.Hull(GfnRange(mapped[i].gfn, kOnePage));
    }
    const ScopedInvalidation theirs(*first.chain, {.range = hull, .event = invalidation.event});
  }
  return absl::OkStatus();
}

std::vector<Inheritors::Mapped> Inheritors::Detach(GfnRange range) {
  std::vector<Mapped> mapped;
  {
    absl::MutexLock lock(&lock_);
    ForEachChain(range, [&](SharerChains::Chain& chain) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      links_.Clear(chain, [&](Sharer page) ABSL_NO_THREAD_SAFETY_ANALYSIS {
        mapped.push_back({.clone = page.guest, .chain = clones_[page.guest].chain, .gfn = page.gfn});
        Forget(page.guest);
      });
    });
  }
  std::sort(mapped.begin(), mapped.end(),
            [](const Mapped& a, const Mapped& b) { return std::pair(a.clone, a.gfn) < std::pair(b.clone, b.gfn); });
  return mapped;
}

// --- Aging. Not under the lock of a block: that no clone goes away meanwhile is due to lock_.

template <class Ask>
bool Inheritors::AnySays(GfnRange range, Ask ask) {
  bool any = false;
  absl::MutexLock lock(&lock_);
  ForEachChain(range, [&](SharerChains::Chain& chain) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    links_.ForEach(chain, [&](Sharer page, ShareLink) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      any |= ask(*clones_.find(page.guest)->second.chain, GfnRange(page.gfn, kOnePage));
    });
  });
  return any;
}

bool Inheritors::ClearFlushYoung(GfnRange range) {
  return AnySays(range, [](NotifierChain& clone, GfnRange page) { return clone.ClearFlushYoung(page); });
}

bool Inheritors::ClearYoung(GfnRange range) {
  return AnySays(range, [](NotifierChain& clone, GfnRange page) { return clone.ClearYoung(page); });
}

bool Inheritors::TestYoung(Gfn gfn) {
  return AnySays(GfnRange(gfn, kOnePage),
                 [](NotifierChain& clone, GfnRange page) { return clone.TestYoung(page.begin()); });
}

// --- What there is.

size_t Inheritors::CountOf(Gfn gfn) const {
  absl::MutexLock lock(&lock_);
  size_t count = 0;
  ForEachChain(GfnRange(gfn, kOnePage), [&](const SharerChains::Chain& chain) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    links_.ForEach(chain, [&](Sharer, ShareLink) { ++count; });
  });
  return count;
}

ByteCount Inheritors::metadata() const {
  absl::MutexLock lock(&lock_);
  return links_.metadata() + ByteCount::Bytes(blocks_.size() * sizeof(Chains));
}

}  // namespace quire
