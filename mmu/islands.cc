#include "mmu/islands.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {
namespace {

absl::Status Error(int error, HvaRange place, const char* what) {
  return absl::ErrnoToStatus(error, absl::StrCat(what, " ", place.size.in_bytes(), " bytes of a window"));
}

// Maps frames of the file over a part of the window. What two mappings of the same kind have in common has to be the
// same to the last flag, or the kernel does not join them.
absl::Status MapOver(HvaRange place, int protection, int sharing, int fd, FrameNumber frame) {
  const off_t offset = static_cast<off_t>((frame - FrameNumber(0)).in_bytes());
  void* const mapped =
      mmap(place.begin.pointer(), place.size.in_bytes(), protection, sharing | MAP_FIXED | MAP_NORESERVE, fd, offset);
  if (mapped == MAP_FAILED) return Error(errno, place, "map");
  madvise(mapped, place.size.in_bytes(), MADV_DONTFORK);
  return absl::OkStatus();
}

absl::Status Protect(HvaRange place, int protection) {
  if (mprotect(place.begin.pointer(), place.size.in_bytes(), protection) == 0) return absl::OkStatus();
  return Error(errno, place, "protect");
}

}  // namespace

// --- Views.

absl::Status Islands::Show(const WindowView& view) {
  if (uffd_.can_continue_protected()) {
    const HvaRange place = Place(view.range);
    absl::Status status = MapOver(place, PROT_READ | PROT_WRITE, MAP_PRIVATE, pool_fd_, view.frame);
    if (status.ok()) status = uffd_.Register(place, Userfaultfd::Reports::kTouchesAndWrites);
    if (!status.ok()) return absl::ResourceExhaustedError(status.message());
  }
  views_.resize(PageCount::Ceil(window_.size).in_blocks_ceil());
  for (Gfn gfn = view.range.begin(); gfn < view.range.end(); gfn = gfn + kOneBlock) {
    views_[BlockOf(gfn).value()] = view.frame + (gfn - view.range.begin());
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Islands::LeaveView(GfnRange range) {
  const uint64_t block = BlockOf(range.begin()).value();
  if (block >= views_.size() || !views_[block].has_value()) return false;
  const absl::Status status =
      uffd_.can_continue_protected() ? PutHome(PagesOfBlock(BlockNumber(block))) : absl::OkStatus();
  if (!status.ok()) return absl::ResourceExhaustedError(status.message());
  views_[block].reset();
  return true;
}

bool Islands::Views(GfnRange range, FrameNumber frame) const {
  const uint64_t block = BlockOf(range.begin()).value();
  return block < views_.size() && views_[block].has_value() &&
         *views_[block] + PageCount(IndexInBlock(range.begin())) == frame;
}

GfnRange Islands::PagesOfBlock(BlockNumber block) const {
  return PagesOf(block).Intersect(GfnRange(Gfn(0), PageCount::Ceil(window_.size)));
}

// --- Islands.

absl::Status Islands::Make(GfnRange range, FrameNumber frame) {
  if (closed_) return absl::OkStatus();
  if (Views(range, frame)) {
    // Nobody has reckoned with an island for each page.
    if (!uffd_.can_continue_protected()) return absl::ResourceExhaustedError("this kernel cannot show a view");
    return uffd_.ContinueProtected(Place(range));
  }
  const HvaRange place = Place(range);
  absl::Status status = KeepSpare();
  // Fails without having changed anything.
  if (status.ok()) status = MapOver(place, PROT_READ, MAP_PRIVATE, pool_fd_, frame);
  if (status.ok()) {
    Mark(range, true);
    status = Finish(place);
    if (status.ok()) return status;
    // What is not registered would show the frame for ever.
    QUIRE_CHECK(Protect(place, PROT_NONE).ok());
    (void)Unmake(range);
  }
  return absl::ResourceExhaustedError(status.message());
}

// The mapping admits no writes before each of its pages is mapped and protected against them. A page that is mapped and
// not protected would be copied by the first write.
absl::Status Islands::Finish(HvaRange place) {
  absl::Status status = uffd_.Register(place, Userfaultfd::Reports::kTouchesAndWrites);
  if (status.ok()) status = uffd_.ContinueAsleep(place);
  if (status.ok()) status = uffd_.WriteProtect(place);
  if (status.ok()) status = Protect(place, PROT_READ | PROT_WRITE);
  return status;
}

absl::Status Islands::Unmake(GfnRange range) {
  const GfnRange hull = HullIn(range);
  if (hull.empty()) return absl::OkStatus();
  absl::Status status = PutHome(hull);
  // To cut a piece out of a mapping takes more mappings; to replace whole ones does not, and is refused only to a
  // process that has one more than it may. The kernel lets it get there.
  if (!status.ok()) status = PutHome(Around(hull));
  if (!status.ok()) {
    spare_.Unmap();
    status = PutHome(Around(hull));
    (void)KeepSpare();
  }
  return status.ok() ? status : absl::ResourceExhaustedError(status.message());
}

// Of a kind that the kernel joins with no other, so that it counts.
absl::Status Islands::KeepSpare() {
  if (spare_.valid()) return absl::OkStatus();
  absl::StatusOr<Mapping> spare = Mapping::Map(kOnePage.bytes(), PROT_NONE, MAP_SHARED | MAP_NORESERVE, pool_fd_, 0);
  if (spare.ok()) spare_ = *std::move(spare);
  return spare.status();
}

// No access before it is registered: a touch of a hole would fill it, and nobody would know.
absl::Status Islands::PutHome(GfnRange range) {
  const HvaRange place = Place(range);
  const FrameNumber frame = home_ + (range.begin() - Gfn(0));
  if (absl::Status status = MapOver(place, PROT_NONE, MAP_SHARED, pool_fd_, frame); !status.ok()) return status;
  absl::Status status = uffd_.Register(place);
  if (status.ok() && !closed_) status = Protect(place, PROT_READ | PROT_WRITE);
  Mark(range, !status.ok());  // out of reach until the next attempt
  return status;
}

GfnRange Islands::HullIn(GfnRange range) const {
  GfnRange hull;
  for (auto it = blocks_.lower_bound(BlockOf(range.begin())); it != blocks_.end(); ++it) {
    const GfnRange pages = PagesOf(it->first).Intersect(range);
    if (pages.empty()) break;
    for (Gfn gfn = pages.begin(); gfn < pages.end(); ++gfn) {
      if (it->second[IndexInBlock(gfn)]) hull = hull.Hull(GfnRange(gfn, kOnePage));
    }
  }
  return hull;
}

// The range with the islands that it adjoins.
GfnRange Islands::Around(GfnRange range) const {
  Gfn begin = range.begin(), end = range.end();
  while (begin > Gfn(0) && Contains(begin - kOnePage)) begin = begin - kOnePage;
  while (Contains(end)) ++end;
  return GfnRange(begin, end);
}

bool Islands::Contains(Gfn gfn) const {
  const auto it = blocks_.find(BlockOf(gfn));
  return it != blocks_.end() && it->second[IndexInBlock(gfn)];
}

void Islands::Mark(GfnRange range, bool island) {
  for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
    if (Contains(gfn) == island) continue;
    const BlockNumber block = BlockOf(gfn);
    blocks_[block][IndexInBlock(gfn)] = island;
    if (island) {
      size_ += kOnePage;
    } else {
      size_ -= kOnePage;
      if (blocks_[block].none()) blocks_.erase(block);
    }
  }
}

HvaRange Islands::Place(GfnRange range) const {
  return {.begin = window_.begin + (range.begin() - Gfn(0)).bytes(), .size = range.size().bytes()};
}

}  // namespace quire
