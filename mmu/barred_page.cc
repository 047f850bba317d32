#include "mmu/barred_page.h"

#include <sys/mman.h>

#include <utility>

#include "base/check.h"

namespace quire {

// One that is barred already has been touched: something has been put in its place meanwhile.
bool BarredPage::Bar(Gfn gfn, MonotonicTime now) {
  if (page_.has_value() && page_ != gfn && now - since_ < kPatience) return false;
  Lift();
  if (!Protect(gfn, PROT_NONE)) return false;
  page_ = gfn;
  since_ = now;
  return true;
}

// The page has a mapping of its own now, and no more are needed for giving it back.
std::optional<Gfn> BarredPage::Lift() {
  if (page_.has_value()) QUIRE_CHECK(Protect(*page_, PROT_READ | PROT_WRITE));
  return std::exchange(page_, std::nullopt);
}

void BarredPage::LiftIn(GfnRange range) {
  if (page_.has_value() && range.contains(*page_)) Lift();
}

bool BarredPage::Protect(Gfn gfn, int protection) const {
  return mprotect((window_ + (gfn - Gfn(0)).bytes()).pointer(), kPageSize, protection) == 0;
}

}  // namespace quire
