// Clones of a guest that was frozen: what they inherit, and until when.
//
// A clone's page is inherited at first: it reads as its template's. For a read, the clone's MMU maps the template's
// frame, read-only, and the clone is entered with the template (Inheritors), so that it is told when that frame goes.
// The entry stays as it is: whether anybody maps the page is the template's to know. For a write, the clone has a frame
// of its own.
//
//   fault: clone's block -- template's block -- enter the clone, or copy -- unlock both -- MMU: install, unless
//                                                                                          invalidated meanwhile
//   template's page goes: template's block -- Inheritors -- the clones' MMUs drop it -- the page goes -- unlock
//
// A template's page that is inherited from yet another template stays so: nobody writes a template. So whoever has the
// page is found without holding a lock on the way.
#include <cstring>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "base/check.h"
#include "guest/guest_memory.h"

namespace quire {

// --- A clone comes and goes.

void GuestMemory::BeginAsClone() {
  QUIRE_CHECK(parent_->frozen() && parent_->size() == size() &&
              parent_->frames_->reservation().empty() == frames_->reservation().empty());
  parent_->clones_.fetch_add(1, std::memory_order_acq_rel);
  if (frames_->reservation().empty()) return;
  // Every other block may become the clone's own: so many mappings, two of them to an island.
  const PageCount charge(map_->blocks() / 2 + 1);
  if (!services_.islands.TryCharge(charge)) return;
  view_charge_ = charge;
  for (uint64_t b = 0; b < map_->blocks(); ++b) {
    Block& block = map_->block(BlockNumber(b));
    absl::MutexLock lock(&block.lock);
    block.viewed = true;
  }
}

void GuestMemory::EndAsClone() {
  services_.islands.Uncharge(view_charge_);
  parent_->clones_.fetch_sub(1, std::memory_order_acq_rel);
}

void GuestMemory::Freeze() {
  QUIRE_CHECK(!frozen());
  for (uint64_t b = 0; b < map_->blocks(); ++b) {
    Block& block = map_->block(BlockNumber(b));
    absl::MutexLock lock(&block.lock);
    // What it was shown of its own template nobody maps any more, and what it had wired nobody needs where it is.
    if (block.Count(PageState::kInherited) > 0) LeaveTemplates(block, map_->Pages(block));
    if (block.wired != nullptr) UnwireAll(block);
  }
  inheritors_ = std::make_unique<Inheritors>();
  notifiers_.Register(inheritors_.get());
  frozen_.store(true, std::memory_order_release);
}

void GuestMemory::UnwireAll(Block& block) {
  for (Gfn gfn = map_->Pages(block).begin(); gfn < map_->Pages(block).end(); ++gfn) ForgetWired(block, gfn);
  EnqueueIfNeeded(block);
}

// --- Who has a page.

GuestMemory& GuestMemory::OwnerOf(Gfn gfn) const {
  GuestMemory* owner = parent_;
  while (owner->parent_ != nullptr && owner->EntryOf(gfn).state() == PageState::kInherited) owner = owner->parent_;
  return *owner;
}

bool GuestMemory::InheritsFrom(const GuestMemory& owner, const Block& block, Gfn gfn) {
  return map_->Get(block, gfn).state() == PageState::kInherited && &OwnerOf(gfn) == &owner;
}

GfnRange GuestMemory::InheritedAround(const GuestMemory& owner, const Block& block, Gfn gfn) {
  const GfnRange run = RunAround(block, gfn);
  if (parent_ == &owner && owner.parent_ == nullptr) return run;
  Gfn begin = gfn, end = gfn + kOnePage;
  while (begin > run.begin() && InheritsFrom(owner, block, begin - kOnePage)) begin = begin - kOnePage;
  while (end < run.end() && InheritsFrom(owner, block, end)) ++end;
  return GfnRange(begin, end);
}

// --- Views.

bool GuestMemory::IsViewed(BlockNumber number) {
  Block& block = map_->block(number);
  absl::MutexLock lock(&block.lock);
  return block.viewed;
}

// The frames of the nearest template that shows its own there. A template does not leave a view any more.
std::optional<FrameNumber> GuestMemory::ViewedFrame(const Block& block, Gfn gfn) {
  if (!block.viewed) return std::nullopt;
  GuestMemory* shown = parent_;
  while (shown->IsViewed(block.number)) shown = shown->parent_;
  return shown->reservation().begin() + (gfn - Gfn(0));
}

std::vector<WindowView> GuestMemory::Views() {
  std::vector<WindowView> views;
  for (uint64_t b = 0; b < map_->blocks(); ++b) {
    Block& block = map_->block(BlockNumber(b));
    absl::MutexLock lock(&block.lock);
    const GfnRange pages = map_->Pages(block);
    const std::optional<FrameNumber> frame = ViewedFrame(block, pages.begin());
    if (!frame.has_value()) continue;
    if (!views.empty() && views.back().range.end() == pages.begin() &&
        views.back().frame + views.back().range.size() == *frame) {
      views.back().range = views.back().range.Hull(pages);
    } else {
      views.push_back({.range = pages, .frame = *frame});
    }
  }
  return views;
}

// The invalidation comes first: a page that is left before the MMU has dropped it could change behind its back.
void GuestMemory::LeaveView(Block& block) {
  if (!block.viewed) return;
  const GfnRange pages = map_->Pages(block);
  { const ScopedInvalidation invalidation(notifiers_, {.range = pages, .event = InvalidateEvent::kClear}); }
  LeaveTemplates(block, pages);
  block.viewed = false;
}

void GuestMemory::LeaveTemplates(Block& block, GfnRange range) {
  for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
    const PageEntry entry = map_->Get(block, gfn);
    if (!entry.inherited_link().has_value()) continue;
    LeaveTemplate(gfn, entry);
    map_->Set(block, gfn, PageEntry::Inherited());
  }
}

void GuestMemory::LeaveTemplate(Gfn gfn, PageEntry entry) {
  const std::optional<ShareLink> link = entry.inherited_link();
  if (!link.has_value()) return;
  GuestMemory& owner = OwnerOf(gfn);
  absl::MutexLock lock(&owner.map_->block(BlockOf(gfn)).lock);
  owner.inheritors_->Remove(id_, gfn, *link);
}

// --- Faults.

absl::StatusOr<Resolution> GuestMemory::ResolveInherited(Block& block, Gfn gfn, FaultPlan& plan) {
  GuestMemory& owner = OwnerOf(gfn);
  if (plan.access == Access::kRead) {
    const absl::StatusOr<std::optional<Resolution>> shown = TryShow(block, gfn, owner, plan);
    if (!shown.ok()) return shown.status();
    if (shown->has_value()) return **shown;
  }
  LeaveView(block);
  const absl::StatusOr<std::optional<Resolution>> copied = TryCopy(block, gfn, owner, plan);
  if (!copied.ok()) return copied.status();
  if (copied->has_value()) return **copied;
  InheritZeros(block, gfn, owner);
  return ResolveLocked(block, gfn, plan);
}

absl::StatusOr<Resolution> GuestMemory::ResolveForClone(Block& block, Gfn gfn, FaultPlan& plan) {
  const Access access = std::exchange(plan.access, Access::kRead);
  if (!std::exchange(plan.of_template, true)) plan.granularity = Choose(block, gfn);
  absl::StatusOr<Resolution> resolution;
  if (map_->Get(block, gfn).state() == PageState::kResident) {
    resolution = IsWholeAndIn(block) ? AllOf(block) : ConsecutiveAround(block, gfn);
  } else {
    resolution = ResolveLocked(block, gfn, plan);
  }
  if (resolution.ok()) block.faults.next_expected = static_cast<uint16_t>(IndexInBlock(resolution->range.end()));
  if (IsAtLimit(resolution.status())) plan.at_limit = this;
  plan.access = access;
  return resolution;
}

// An MMU of the project's own maps any frame. A window shows those that it was made to show; others would have to be
// islands.
absl::StatusOr<std::optional<Resolution>> GuestMemory::TryShow(Block& block, Gfn gfn, GuestMemory& owner,
                                                               FaultPlan& plan) {
  const bool any_frame = frames_->reservation().empty();
  const std::optional<FrameNumber> viewed = ViewedFrame(block, gfn);
  if (!any_frame && !viewed.has_value()) return std::nullopt;
  const GfnRange run = InheritedAround(owner, block, gfn);
  Block& theirs = owner.map_->block(block.number);
  absl::MutexLock lock(&theirs.lock);
  if (owner.map_->Get(theirs, gfn).state() == PageState::kAbsent) return std::nullopt;
  const absl::StatusOr<Resolution> resolution = owner.ResolveForClone(theirs, gfn, plan);
  if (!resolution.ok()) return resolution.status();
  if (!any_frame && resolution->FrameOf(gfn) != *viewed) return std::nullopt;
  return Show(block, run.Intersect(resolution->range), owner, *resolution);
}

Resolution GuestMemory::Show(Block& block, GfnRange run, GuestMemory& owner, const Resolution& theirs) {
  for (Gfn gfn = run.begin(); gfn < run.end(); ++gfn) {
    const std::optional<ShareLink> before = map_->Get(block, gfn).inherited_link();
    const ShareLink link = owner.inheritors_->Add(id_, notifiers_, gfn, before);
    map_->Set(block, gfn, PageEntry::Inherited(link));
  }
  services_.faults.inherited.Add(run.size().in_pages());
  return Resolution{.range = run, .frame = theirs.FrameOf(run.begin()), .protection = Protection::kReadOnly};
}

absl::StatusOr<std::optional<Resolution>> GuestMemory::TryCopy(Block& block, Gfn gfn, GuestMemory& owner,
                                                               FaultPlan& plan) {
  // A window's faults are dear, and its frames lie side by side.
  GfnRange run(gfn, kOnePage);
  if (frames_->max_run() >= kRun && HasPlenty(kRun)) run = InheritedAround(owner, block, gfn);
  Block& theirs = owner.map_->block(block.number);
  absl::MutexLock lock(&theirs.lock);
  if (owner.map_->Get(theirs, gfn).state() == PageState::kAbsent) return std::nullopt;
  const absl::StatusOr<Resolution> resolution = owner.ResolveForClone(theirs, gfn, plan);
  if (!resolution.ok()) return resolution.status();
  run = run.Intersect(resolution->range);
  const absl::StatusOr<FrameNumber> own = AcquireFrames(run);
  if (!own.ok()) return own.status();
  const std::byte* const content = HostAddress(resolution->FrameOf(run.begin()));
  std::memcpy(HostAddress(*own), content, run.size().in_bytes());
  TakeOver(block, run, *own, owner);
  return Resolution{.range = run, .frame = *own};
}

void GuestMemory::TakeOver(Block& block, GfnRange run, FrameNumber own, GuestMemory& owner) {
  GfnRange mapped;
  absl::InlinedVector<std::pair<Gfn, ShareLink>, 16> links;
  for (Gfn gfn = run.begin(); gfn < run.end(); ++gfn) {
    const std::optional<ShareLink> link = map_->Get(block, gfn).inherited_link();
    if (!link.has_value()) continue;
    mapped = mapped.Hull(GfnRange(gfn, kOnePage));
    links.emplace_back(gfn, *link);
  }
  {
    const std::optional<ScopedInvalidation> invalidation = Unmap(mapped);
    MakeResident(block, run, own);
  }
  for (const auto& [gfn, link] : links) owner.inheritors_->Remove(id_, gfn, link);
  services_.faults.unshare.Add(run.size().in_pages());
}

// All of a block that the template never had anything in, so that it can come whole; else the pages around.
void GuestMemory::InheritZeros(Block& block, Gfn gfn, GuestMemory& owner) {
  Block& theirs = owner.map_->block(block.number);
  const GfnRange pages = map_->Pages(block);
  const GfnRange run = InheritedAround(owner, block, gfn);
  absl::MutexLock lock(&theirs.lock);
  const bool all =
      owner.parent_ == nullptr && parent_ == &owner && theirs.Count(PageState::kAbsent) == pages.size().in_pages();
  const GfnRange range = all ? pages : run;
  for (Gfn page = range.begin(); page < range.end(); ++page) {
    const PageEntry entry = map_->Get(block, page);
    if (entry.state() != PageState::kInherited || owner.map_->Get(theirs, page).state() != PageState::kAbsent) continue;
    if (const std::optional<ShareLink> link = entry.inherited_link()) owner.inheritors_->Remove(id_, page, *link);
    map_->Set(block, page, PageEntry::Absent());
  }
}

}  // namespace quire
