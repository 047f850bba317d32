#include "tests/model/machine.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "guest/guest_limits.h"
#include "guest/huge/compaction_mode.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/testing/fake_backing_store.h"
#include "guest/testing/fake_mmu.h"
#include "mmu/ept.h"

namespace quire::model {
namespace {

class FakeSoftwareMmu final : public SoftwareMmu {
 public:
  FakeSoftwareMmu(GuestMemory& memory, bool has_access_bits) : mmu_(memory) {
    mmu_.set_has_access_bits(has_access_bits);
  }
  absl::Status WithPage(Gfn gfn, Access access, absl::FunctionRef<void(std::byte*)> use) override {
    return mmu_.WithPage(gfn, access, use);
  }
  std::optional<FrameNumber> Lookup(Gfn gfn) override { return mmu_.Lookup(gfn); }

 private:
  FakeMmu mmu_;
};

class EptSoftwareMmu final : public SoftwareMmu {
 public:
  explicit EptSoftwareMmu(GuestMemory& memory) : ept_(memory), vcpu_(ept_) {}
  absl::Status WithPage(Gfn gfn, Access access, absl::FunctionRef<void(std::byte*)> use) override {
    return vcpu_.WithPage(gfn, access, use);
  }
  std::optional<FrameNumber> Lookup(Gfn gfn) override {
    const EptEntry leaf = ept_.Lookup(gfn);
    if (!leaf.present()) return std::nullopt;
    return leaf.large() ? leaf.frame() + PageCount(IndexInBlock(gfn)) : leaf.frame();
  }

 private:
  Ept ept_;
  EptVcpu vcpu_;
};

std::unique_ptr<SoftwareMmu> MakeMmu(GuestMemory& memory, Mmu mmu) {
  if (mmu == Mmu::kEpt) return std::make_unique<EptSoftwareMmu>(memory);
  return std::make_unique<FakeSoftwareMmu>(memory, mmu == Mmu::kFakeWithAccessBits);
}

// In two regions that meet: a device's ranges cross from one to the other.
std::unique_ptr<GuestDeviceMemory> MakeDevice(GuestMemory& memory) {
  const Gfn middle = Gfn(0) + memory.size() / 2, end = Gfn(0) + memory.size();
  GuestRegions regions;
  for (const GfnRange pages : {GfnRange(Gfn(0), middle), GfnRange(middle, end)}) {
    if (!pages.empty()) regions.push_back({.gpa = ToGpa(pages.begin()), .pages = pages});
  }
  return std::make_unique<GuestDeviceMemory>(memory, std::move(regions));
}

std::vector<std::byte> DeviceBytes(uint64_t size, uint32_t seed) {
  std::vector<std::byte> bytes((size + kPageSize - 1) / kPageSize * kPageSize);
  for (uint64_t at = 0; at < bytes.size(); at += kPageSize) FillPage(&bytes[at], Content::kCompressible, seed);
  bytes.resize(size);
  return bytes;
}

bool IsZero(const std::byte* page) {
  return page[0] == std::byte{0} && std::memcmp(page, page + 1, kPageSize - 1) == 0;
}

absl::Status Wrong(const GuestMemory& guest, Gfn gfn, absl::string_view what) {
  return absl::InternalError(absl::StrCat("page ", gfn.value(), " of guest ", guest.id(), " ", what));
}

// The entry of the ancestor that has the page.
PageEntry EntryBehind(GuestMemory& guest, Gfn gfn) {
  const PageEntry entry = guest.EntryOf(gfn);
  return entry.state() == PageState::kInherited ? guest.OwnerOf(gfn).EntryOf(gfn) : entry;
}

}  // namespace

Machine::Machine(bool has_swap_area) {
  const auto open_swap = [has_swap_area] {
    std::vector<std::unique_ptr<BackingStore>> swap;
    if (has_swap_area) swap.push_back(std::make_unique<FakeBackingStore>(kSwapArea));
    return swap;
  };
  manager_ = MemoryManager::Create(
                 {.limit = kPool,
                  .reservations = kReservations,
                  .use_memfd = true,
                  .granularity = {.advised_only = true},
                  .compaction = CompactionMode::kFault,
                  .merge = true,
                  .islands = kIslands,
                  .open_swap = open_swap,
                  .on_stopped = [this](GuestMemory& guest,
                                       const absl::Status&) { stopped_.emplace(&guest, ScatteredFrames()); }})
                 .value();
  QUIRE_CHECK(Do(AddGuest{1700, Placement::kArena, Mmu::kEpt}).ok());
  QUIRE_CHECK(Do(AddGuest{2048, Placement::kReservation, Mmu::kFake}).ok());
  QUIRE_CHECK(Do(AddGuest{1500, Placement::kArena, Mmu::kFakeWithAccessBits}).ok());
}

Machine::~Machine() {
  while (!guests_.empty()) Remove(guests_.front());
  for (const FrameRange& range : wired_) manager_->pool().FreeWired(range);
}

absl::Status Machine::Apply(const Op& op) {
  absl::Status status = std::visit([this](const auto& o) { return Do(o); }, op);
  if (status.ok()) status = NoticeStops();
  if (status.ok()) status = CheckLimits();
  if (status.ok()) status = CheckWired();
  return status;
}

// --- What a guest does.

absl::Status Machine::Do(const Read& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr) return absl::OkStatus();
  const uint64_t size = guest->memory->size().in_pages();
  for (uint64_t i = 0; i < op.count; ++i) {
    if (absl::Status status = ReadPage(*guest, Gfn((op.page + i) % size)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Machine::ReadPage(Guest& guest, Gfn gfn) {
  if (guest.mmu == nullptr) return absl::OkStatus();
  const auto known = guest.pages.find(gfn);
  bool equal = false;
  const absl::Status status = guest.mmu->WithPage(gfn, Access::kRead, [&](std::byte* page) {
    equal = known == guest.pages.end() ? IsZero(page) : std::memcmp(page, known->second.data(), kPageSize) == 0;
  });
  if (!status.ok()) return Judge(guest, gfn, status);
  if (guest.lost.contains(gfn)) return Wrong(*guest.memory, gfn, "can be read although its memory has failed");
  if (equal) return absl::OkStatus();
  return Wrong(*guest.memory, gfn, "does not read as it was written (invariant 10)");
}

absl::Status Machine::Change(Guest& guest, Gfn gfn, absl::FunctionRef<void(std::byte*)> change) {
  if (guest.mmu == nullptr) return absl::OkStatus();
  const absl::Status status = guest.mmu->WithPage(gfn, Access::kWrite, change);
  if (!status.ok()) return Judge(guest, gfn, status);
  if (guest.lost.contains(gfn)) return Wrong(*guest.memory, gfn, "can be written although its memory has failed");
  const auto [place, added] = guest.pages.try_emplace(gfn);
  if (added) place->second = {};
  change(place->second.data());
  if (IsZero(place->second.data())) guest.pages.erase(place);
  return absl::OkStatus();
}

absl::Status Machine::Do(const Write& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr) return absl::OkStatus();
  return Change(*guest, Gfn(op.page % guest->memory->size().in_pages()),
                [&](std::byte* page) { FillPage(page, op.content, op.seed); });
}

absl::Status Machine::Do(const Poke& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr) return absl::OkStatus();
  const uint64_t value = op.value;
  return Change(*guest, Gfn(op.page % guest->memory->size().in_pages()),
                [&](std::byte* page) { std::memcpy(page + op.word % 512 * 8, &value, sizeof value); });
}

bool Machine::HasPagesInSwapArea(GuestMemory& memory, BlockNumber block) {
  const GfnRange pages = PagesOf(block).Intersect(GfnRange(Gfn(0), memory.size()));
  for (Gfn gfn = pages.begin(); gfn < pages.end(); ++gfn) {
    const PageEntry entry = memory.EntryOf(gfn);
    if (entry.state() == PageState::kSwapped && manager_->store().IsInArea(entry.slot())) return true;
  }
  return false;
}

absl::Status Machine::Do(const Probe& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr || guest->mmu == nullptr) return absl::OkStatus();
  const Gfn gfn(op.page % guest->memory->size().in_pages());
  const absl::StatusOr<Resolution> resolution = guest->memory->Resolve(gfn, Access::kRead, Wait::kMustNot);
  if (absl::IsUnavailable(resolution.status())) {
    // A whole block may have been wanted.
    if (manager_->pool().FreePages() <= manager_->pool().watermarks().min + kOneBlock) return absl::OkStatus();
    // Its own pages, or those of a template that has the page.
    for (GuestMemory* at = guest->memory; at != nullptr; at = at->parent()) {
      if (HasPagesInSwapArea(*at, BlockOf(gfn)) || !at->HasRoomFor(kOneBlock)) return absl::OkStatus();
    }
    return Wrong(*guest->memory, gfn, "was refused although memory is free");
  }
  if (!resolution.ok()) return Judge(*guest, gfn, resolution.status());
  if (resolution->range.contains(gfn)) return absl::OkStatus();
  return Wrong(*guest->memory, gfn, "was resolved as other pages");
}

absl::Status Machine::Do(const Discard& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr || guest->mmu == nullptr) return absl::OkStatus();
  const GfnRange all(Gfn(0), guest->memory->size());
  const GfnRange range = GfnRange(Gfn(op.page % all.size().in_pages()), PageCount(op.count)).Intersect(all);
  guest->memory->Discard(range);
  guest->pages.erase(guest->pages.lower_bound(range.begin()), guest->pages.lower_bound(range.end()));
  guest->lost.erase(guest->lost.lower_bound(range.begin()), guest->lost.lower_bound(range.end()));
  return absl::OkStatus();
}

absl::Status Machine::Do(const Advise& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr) return absl::OkStatus();
  guest->memory->AdviseHuge(GfnRange(Gfn(op.page), PageCount(op.count)), op.huge);
  return absl::OkStatus();
}

// --- What a guest's device does.

Machine::DeviceRange Machine::Locate(uint32_t guest, uint32_t page, uint32_t byte, uint32_t size) {
  DeviceRange range{.guest = Find(guest), .begin = 0, .size = 0};
  if (range.guest != nullptr && range.guest->device == nullptr) range.guest = nullptr;
  if (range.guest == nullptr) return range;
  const uint64_t end = range.guest->memory->size().in_bytes();
  range.begin = (uint64_t{page} * kPageSize + byte % kPageSize) % end;
  range.size = std::min<uint64_t>((size - 1) % 8192 + 1, end - range.begin);
  return range;
}

std::vector<std::byte> Machine::Expected(const DeviceRange& range) {
  std::vector<std::byte> bytes(range.size);
  for (uint64_t i = 0; i < range.size; ++i) {
    const Gpa at(range.begin + i);
    const auto page = range.guest->pages.find(at.gfn());
    if (page != range.guest->pages.end()) bytes[i] = page->second[at.offset_in_page()];
  }
  return bytes;
}

void Machine::Expect(const DeviceRange& range, absl::Span<const std::byte> bytes) {
  std::map<Gfn, Page>& pages = range.guest->pages;
  for (uint64_t i = 0; i < range.size; ++i) {
    const Gpa at(range.begin + i);
    pages.try_emplace(at.gfn(), Page()).first->second[at.offset_in_page()] = bytes[i];
  }
  for (Gfn gfn = range.pages().begin(); gfn < range.pages().end(); ++gfn) {
    if (IsZero(pages[gfn].data())) pages.erase(gfn);
  }
}

absl::Status Machine::JudgeDevice(const DeviceRange& range, const absl::Status& status,
                                  absl::Span<const std::byte> read) {
  Guest& guest = *range.guest;
  const GfnRange pages = range.pages();
  if (!status.ok()) return Judge(guest, pages.begin(), status);
  if (const auto lost = guest.lost.lower_bound(pages.begin()); lost != guest.lost.end() && pages.contains(*lost)) {
    return Wrong(*guest.memory, *lost, "was had by a device although its memory has failed");
  }
  if (read.empty() || absl::MakeConstSpan(Expected(range)) == read) return absl::OkStatus();
  return Wrong(*guest.memory, pages.begin(), "or the next does not read by a device as it was written (invariant 10)");
}

absl::Status Machine::Do(const DeviceRead& op) {
  const DeviceRange range = Locate(op.guest, op.page, op.byte, op.size);
  if (range.guest == nullptr) return absl::OkStatus();
  std::vector<std::byte> bytes(range.size);
  return JudgeDevice(range, range.guest->device->Read(range.gpa(), absl::MakeSpan(bytes)), bytes);
}

absl::Status Machine::Do(const DeviceWrite& op) {
  const DeviceRange range = Locate(op.guest, op.page, op.byte, op.size);
  if (range.guest == nullptr) return absl::OkStatus();
  const std::vector<std::byte> bytes = DeviceBytes(range.size, op.seed);
  const absl::Status status = range.guest->device->Write(range.gpa(), bytes);
  if (status.ok()) Expect(range, bytes);
  return JudgeDevice(range, status, bytes);
}

absl::Status Machine::Do(const DeviceTransfer& op) {
  const DeviceRange range = Locate(op.guest, op.page, op.byte, op.size);
  if (range.guest == nullptr) return absl::OkStatus();
  const auto buffer = range.guest->device->Wire(range.gpa(), ByteCount::Bytes(range.size));
  if (absl::IsResourceExhausted(buffer.status()) && !range.guest->memory->stopped())
    return absl::OkStatus();  // the limit
  if (!buffer.ok()) return JudgeDevice(range, buffer.status(), {});
  std::vector<std::byte> bytes = DeviceBytes(range.size, op.seed);
  uint64_t done = 0;
  for (const absl::Span<std::byte> piece : (*buffer)->pieces()) {
    if (op.into_memory) {
      std::memcpy(piece.data(), &bytes[done], piece.size());
    } else {
      std::memcpy(&bytes[done], piece.data(), piece.size());
    }
    done += piece.size();
  }
  if (done != range.size) return Wrong(*range.guest->memory, range.pages().begin(), "begins a buffer of another size");
  if (op.into_memory) Expect(range, bytes);
  return JudgeDevice(range, absl::OkStatus(), bytes);
}

absl::Status Machine::Do(const WirePages& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr || guest->mmu == nullptr || guest->wired.size() == kMostWired) return absl::OkStatus();
  const GfnRange all(Gfn(0), guest->memory->size());
  const GfnRange range = GfnRange(Gfn(op.page % all.size().in_pages()), PageCount(op.count)).Intersect(all);
  const absl::Status status = guest->memory->Wire(range);
  if (absl::IsResourceExhausted(status) && !guest->memory->stopped()) return absl::OkStatus();  // the limit
  if (!status.ok()) return Judge(*guest, range.begin(), status);
  WiredRange& wired = guest->wired.emplace_back(WiredRange{.pages = range, .frames = {}});
  for (Gfn gfn = range.begin(); gfn < range.end(); ++gfn) {
    const PageEntry entry = guest->memory->EntryOf(gfn);
    if (entry.state() != PageState::kResident) return Wrong(*guest->memory, gfn, "is wired and not resident");
    wired.frames.push_back(entry.frame());
  }
  return absl::OkStatus();
}

absl::Status Machine::Do(const UnwirePages& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr || guest->wired.empty()) return absl::OkStatus();
  guest->memory->Unwire(guest->wired.front().pages);
  guest->wired.pop_front();
  return absl::OkStatus();
}

// --- What the manager does.

absl::Status Machine::Do(const Age& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr) return absl::OkStatus();
  guest->memory->Age(guest->memory->BlockAt(BlockNumber(op.block % guest->memory->size().in_blocks_ceil())));
  return absl::OkStatus();
}

absl::Status Machine::Do(const AgeBlocks& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr) return absl::OkStatus();
  const uint64_t blocks = guest->memory->size().in_blocks_ceil();
  const uint64_t first = op.block % blocks;
  guest->memory->AgeBlocks(BlockNumber(first), std::min<uint64_t>(op.count, blocks - first));
  return absl::OkStatus();
}

absl::Status Machine::Do(const Prefetch& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr) return absl::OkStatus();
  const BlockNumber number(op.block % guest->memory->size().in_blocks_ceil());
  Block& block = guest->memory->BlockAt(number);
  // Seldom has a block no page in memory by chance, and memory is always short here.
  for (int looks = 0; looks < 2; ++looks) guest->memory->Age(block);
  guest->memory->Evict(block, scratch_);
  manager_->reclaimer().Reclaim(PageCount::OfBlocks(2), scratch_);
  guest->memory->Prefetch(number);
  return absl::OkStatus();
}

absl::Status Machine::Do(const Evict& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr) return absl::OkStatus();
  const BlockNumber block(op.block % guest->memory->size().in_blocks_ceil());
  const PageCount before = guest->memory->frames_held();
  const uint64_t moved_before = manager_->swap().stored_as_is.value();
  const PageCount freed = guest->memory->Evict(guest->memory->BlockAt(block), scratch_);
  const PageCount moved(manager_->swap().stored_as_is.value() - moved_before);
  if (before - guest->memory->frames_held() == freed + moved) return absl::OkStatus();
  return Wrong(*guest->memory, FirstGfn(block), "begins a block whose eviction reports other frames than it frees");
}

absl::Status Machine::Do(const Reclaim& op) {
  manager_->reclaimer().Reclaim(PageCount(op.pages), scratch_);
  return absl::OkStatus();
}

absl::Status Machine::Do(const WriteOut& op) {
  manager_->store().WriteOut(ByteCount::KiB(op.kib));
  return absl::OkStatus();
}

absl::Status Machine::Do(const MergePass&) {
  manager_->merger().Pass();
  return absl::OkStatus();
}

absl::Status Machine::Do(const ReclaimShared& op) {
  manager_->ReclaimShared(op.many);
  return absl::OkStatus();
}

absl::Status Machine::Do(const Recompress& op) {
  manager_->store().Recompress(PageCount(op.pages), SwapSpace::Age::kAny);
  return absl::OkStatus();
}

absl::Status Machine::Do(const Poison& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr || guest->stopped || guest->mmu == nullptr) return absl::OkStatus();
  if (manager_->pool().poisoned() >= kMostPoisoned) return absl::OkStatus();
  const Gfn gfn(op.page % guest->memory->size().in_pages());
  if (WiredPagesOf(*guest).contains(gfn)) return absl::OkStatus();  // it is checked to be where it is
  const PageEntry before = guest->memory->EntryOf(gfn);
  // It may be a template's page that is lost then, or one that is shared with a template's.
  const bool exclusive = before.state() != PageState::kShared && before.state() != PageState::kInherited;
  if (HasClones() && !exclusive) return absl::OkStatus();
  const absl::StatusOr<MemoryManager::Poisoned> poisoned = manager_->PoisonPage(*guest->memory, gfn);
  if (!before.has_frame() && before.state() != PageState::kShared) {
    return absl::IsInvalidArgument(poisoned.status()) ? absl::OkStatus() : Wrong(*guest->memory, gfn, "has no frame");
  }
  if (!poisoned.ok()) return Wrong(*guest->memory, gfn, "was not poisoned");
  // Who has lost pages, and how many, is what was said.
  PageCount lost;
  for (Guest& other : guests_) {
    const bool told = absl::c_linear_search(poisoned->guests, other.memory->id());
    for (Gfn page; told && page < Gfn(0) + other.memory->size(); ++page) {
      if (other.memory->EntryOf(page).state() != PageState::kPoisoned || other.lost.contains(page)) continue;
      lost += kOnePage;
      other.lost.insert(page);
      other.pages.erase(page);
      if (!op.discard) continue;
      other.memory->Discard(GfnRange(page, kOnePage));
      other.lost.erase(page);
    }
  }
  return lost == poisoned->lost ? absl::OkStatus() : Wrong(*guest->memory, gfn, "took other pages along than was said");
}

absl::Status Machine::Do(const Compact& op) {
  Pool& pool = manager_->pool();
  // Looking at what the store holds gives back what its zones keep in buckets.
  const PageCount held = manager_->store().statistics().held;
  pool.arena().DrainCpuLists();
  const PageCount free = pool.FreeFrames();
  const uint64_t gained = pool.compaction()->MakeFreeBlocks(op.blocks);
  pool.arena().DrainCpuLists();
  if (pool.FreeFrames() != free || manager_->store().statistics().held != held) {
    return absl::InternalError(absl::StrCat("compaction that gained ", gained, " blocks left ",
                                            pool.FreeFrames().in_pages(), " frames free of ", free.in_pages()));
  }
  return absl::OkStatus();
}

// --- What the machine does.

absl::Status Machine::Do(const AddGuest& op) {
  if (guests_.size() == kMaxGuests) return absl::OkStatus();
  const PageCount size((op.pages - 1) % 2048 + 1);  // 1 to 2048, and the number itself if it is among them
  const GuestLimits limits{.frames = PageCount(op.frames), .swapped = PageCount(op.swapped)};
  absl::StatusOr<GuestMemory*> memory = manager_->AddGuest(size, op.placement, limits);
  // After very many guests there are no more places for reservations.
  if (absl::IsInvalidArgument(memory.status())) memory = manager_->AddGuest(size, Placement::kArena, limits);
  if (!memory.ok()) return memory.status();
  (*memory)->AdviseHuge(GfnRange(Gfn(0), size), true);
  guests_.push_back({.memory = *memory, .mmu = MakeMmu(**memory, op.mmu), .device = MakeDevice(**memory)});
  return absl::OkStatus();
}

absl::Status Machine::Do(const SetLimits& op) {
  Guest* const guest = Find(op.guest);
  if (guest == nullptr || guest->stopped || guest->mmu == nullptr || guest->memory->parent() != nullptr) {
    return absl::OkStatus();
  }
  const PageCount frames(op.frames), swapped(op.swapped), held = guest->memory->frames_held();
  const absl::Status status = guest->memory->SetLimits(frames, swapped);
  if (absl::IsFailedPrecondition(status) && guest->memory->wired() * 2 > frames) return absl::OkStatus();
  if (!status.ok()) return status;
  if (guest->memory->frames_held() != held || guest->memory->limits().frames != frames ||
      guest->memory->limits().swapped != swapped) {
    return absl::InternalError("limits were changed, and other things with them, or not all");
  }
  guest->held_before = held;
  guest->swapped_before = guest->memory->counts()[PageState::kSwapped];
  guest->limits_changed = true;
  return absl::OkStatus();
}

absl::Status Machine::Do(const SetPolicies& op) {
  manager_->SetMerging(op.merge);
  manager_->SetBlockPolicy(op.blocks);
  return absl::OkStatus();
}

absl::Status Machine::Do(const RemoveGuest& op) {
  if (Guest* const guest = Find(op.guest); guest != nullptr) Remove(*guest);
  return absl::OkStatus();
}

bool Machine::HasClones() const {
  return std::any_of(guests_.begin(), guests_.end(), [](const Guest& g) { return g.memory->parent() != nullptr; });
}

absl::Status Machine::Do(const Clone& op) {
  Guest* guest = Find(op.guest);
  if (guest == nullptr || guest->stopped || guests_.size() == kMaxGuests) return absl::OkStatus();
  if (guest->mmu != nullptr) {
    RemoveDevice(*guest);
    guest->mmu.reset();
    guest->memory->Freeze();
    guest->wired.clear();
  }
  const absl::StatusOr<GuestMemory*> memory = manager_->Clone(*guest->memory, guest->memory->limits());
  if (absl::IsInvalidArgument(memory.status())) return absl::OkStatus();  // no more places for reservations
  if (!memory.ok()) return memory.status();
  guests_.push_back({.memory = *memory,
                     .mmu = MakeMmu(**memory, op.mmu),
                     .device = MakeDevice(**memory),
                     .pages = guest->pages,
                     .wired = {},
                     .lost = guest->lost});
  return absl::OkStatus();
}

void Machine::RemoveDevice(Guest& guest) {
  if (guest.device == nullptr) return;
  device_hits_ += guest.device->counters().hits.value();
  translations_dropped_ += guest.device->counters().dropped.value();
  guest.device.reset();
}

void Machine::Remove(Guest& guest) {
  GuestMemory* const memory = guest.memory;
  if (memory->has_clones()) orphans_.push_back(NeedsOf(guest));
  RemoveDevice(guest);
  guest.mmu.reset();
  const auto is_it = [&](const Guest& g) { return g.memory == memory; };
  guests_.erase(std::find_if(guests_.begin(), guests_.end(), is_it));
  manager_->RemoveGuest(memory);
  stopped_.erase(memory);
  if (!HasClones()) orphans_.clear();
}

absl::Status Machine::Do(const Wire& op) {
  const absl::StatusOr<FrameRange> range = manager_->pool().AllocateWired(PageCount(op.pages));
  if (range.ok()) wired_.push_back(*range);
  return absl::OkStatus();  // that there is no room is no error
}

absl::Status Machine::Do(const Unwire&) {
  if (wired_.empty()) return absl::OkStatus();
  manager_->pool().FreeWired(wired_.front());
  wired_.pop_front();
  return absl::OkStatus();
}

// --- Out of memory.

absl::Status Machine::Judge(Guest& guest, Gfn gfn, const absl::Status& status) {
  if (absl::IsDataLoss(status) && !guest.stopped && guest.lost.empty()) {
    return Wrong(*guest.memory, gfn, "is lost although its memory has not failed");
  }
  if (!guest.memory->stopped()) return absl::InternalError(absl::StrCat("a fault failed: ", status.ToString()));
  if (status == guest.memory->status()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("a stopped guest's fault got ", status.ToString()));
}

Machine::Needs Machine::NeedsOf(const Guest& guest) {
  Needs needs;
  const std::set<Gfn> wired = WiredPagesOf(guest);
  needs.frames = PageCount(wired.size());
  for (const auto& [gfn, page] : guest.pages) {
    if (wired.contains(gfn)) continue;
    // Of the contents that are written here, noise alone has no two words that are equal side by side.
    const bool noise = std::memcmp(&page[8], &page[16], 8) != 0 && std::memcmp(&page[40], &page[48], 8) != 0;
    (noise ? needs.frames : needs.compressible) += kOnePage;
  }
  const PageCount most = guest.memory->limits().swapped;
  if (most != PageCount() && needs.compressible > most) {
    needs.frames += needs.compressible - most;
    needs.compressible = most;
  }
  return needs;
}

PageCount Machine::NeededFrames() const {
  PageCount frames, compressible;
  for (const FrameRange& range : wired_) frames += range.size();
  for (const Guest& guest : guests_) {
    const Needs needs = NeedsOf(guest);
    frames += needs.frames;
    compressible += needs.compressible;
  }
  for (const Needs& needs : orphans_) {
    frames += needs.frames;
    compressible += needs.compressible;
  }
  return frames + compressible / 2;
}

std::vector<PageCount> Machine::BeyondLimits() const {
  std::vector<PageCount> beyond;
  for (const Guest& guest : guests_) {
    const PageCount limit = guest.memory->limits().frames, held = guest.memory->frames_held();
    beyond.push_back(limit == PageCount() || held <= limit ? PageCount() : held - limit);
  }
  return beyond;
}

absl::Status Machine::CheckLimits() const {
  for (const Guest& guest : guests_) {
    const GuestLimits limits = guest.memory->limits();
    const auto exceeds = [](PageCount pages, PageCount limit, PageCount before = {}) {
      return limit != PageCount() && pages > limit && pages > before;
    };
    const bool now = exceeds(guest.memory->frames_held(), limits.frames, guest.held_before) ||
                     exceeds(guest.memory->counts()[PageState::kSwapped], limits.swapped, guest.swapped_before);
    const bool ever =
        exceeds(guest.memory->peak_held(), limits.frames) || exceeds(guest.memory->peak_swapped(), limits.swapped);
    if (now || (ever && !guest.limits_changed)) {
      return absl::InternalError(absl::StrCat("guest ", guest.memory->id(), " has more than its limits allow"));
    }
  }
  return absl::OkStatus();
}

std::set<Gfn> Machine::WiredPagesOf(const Guest& guest) {
  std::set<Gfn> pages;
  for (const WiredRange& wired : guest.wired) {
    for (Gfn gfn = wired.pages.begin(); gfn < wired.pages.end(); ++gfn) pages.insert(gfn);
  }
  return pages;
}

absl::Status Machine::CheckWired() const {
  for (const Guest& guest : guests_) {
    for (const WiredRange& wired : guest.wired) {
      for (size_t i = 0; i < wired.frames.size(); ++i) {
        const Gfn gfn = wired.pages.begin() + PageCount(i);
        const PageEntry entry = guest.memory->EntryOf(gfn);
        if (entry.state() == PageState::kResident && entry.frame() == wired.frames[i]) continue;
        return Wrong(*guest.memory, gfn, "is wired and not where it was (invariant 15)");
      }
    }
  }
  return absl::OkStatus();
}

PageCount Machine::ScatteredFrames() const {
  const ArenaCounts arena = manager_->pool().arena().counts();
  return arena.free - arena.free_in_whole_blocks;
}

absl::Status Machine::NoticeStops() {
  if (stopped_.empty()) return absl::OkStatus();
  for (Guest& guest : guests_) {
    const auto stop = stopped_.find(guest.memory);
    if (guest.stopped || stop == stopped_.end()) continue;
    const absl::Status reason = guest.memory->status();
    if (absl::IsDataLoss(reason) && !guest.lost.empty()) {
      guest.memory->Discard(GfnRange(Gfn(0), guest.memory->size()));
      guest.stopped = true;
      guest.pages.clear();
      guest.wired.clear();
      guest.lost.clear();
      continue;
    }
    if (!absl::IsResourceExhausted(reason)) {
      return absl::InternalError(absl::StrCat("a guest was stopped: ", reason.ToString()));
    }
    const PageCount most = guest.memory->limits().frames;
    const bool at_its_limit = most != PageCount() && NeedsOf(guest).frames >= most * 3 / 4;
    const PageCount usable = kPool - manager_->pool().watermarks().min;
    const PageCount needed = NeededFrames(), scattered = stop->second;
    if (!at_its_limit && needed + scattered < usable * 3 / 4) {
      return absl::InternalError(absl::StrCat("a guest was stopped while what all hold takes about ", needed.in_pages(),
                                              " frames, and ", scattered.in_pages(), " are scattered, of ",
                                              usable.in_pages(), ": ", reason.ToString()));
    }
    if (guest.memory->frames_held() != PageCount()) return absl::InternalError("a stopped guest holds frames");
    guest.stopped = true;
    guest.pages.clear();
    guest.wired.clear();
    guest.lost.clear();
  }
  stopped_.clear();
  return absl::OkStatus();
}

// --- Checks.

absl::Status Machine::Check() {
  for (const Guest& guest : guests_) {
    if (guest.memory->wired() == PageCount(WiredPagesOf(guest).size())) continue;
    return absl::InternalError(absl::StrCat("guest ", guest.memory->id(), " has other pages wired than it should"));
  }
  for (Guest& guest : guests_) {
    if (absl::Status status = CheckMmu(guest); !status.ok()) return status;
  }
  return manager_->Check();
}

absl::Status Machine::CheckMmu(Guest& guest) {
  if (guest.mmu == nullptr) return absl::OkStatus();
  for (Gfn gfn; gfn < Gfn(0) + guest.memory->size(); ++gfn) {
    for (const std::optional<FrameNumber> mapped : {guest.mmu->Lookup(gfn), guest.device->iotlb().Lookup(gfn)}) {
      if (!mapped.has_value()) continue;
      const PageEntry entry = EntryBehind(*guest.memory, gfn);
      if (entry.state() != PageState::kResident && entry.state() != PageState::kShared)
        return Wrong(*guest.memory, gfn, "is mapped but not resident (invariant 3)");
      if (entry.frame() != *mapped) return Wrong(*guest.memory, gfn, "is mapped to another frame (invariant 3)");
    }
  }
  return absl::OkStatus();
}

absl::Status Machine::CompareAll() {
  for (Guest& guest : guests_) {
    for (Gfn gfn; gfn < Gfn(0) + guest.memory->size(); ++gfn) {
      if (absl::Status status = ReadPage(guest, gfn); !status.ok()) return status;
    }
  }
  return NoticeStops();
}

// --- Programs.

Outcome Run(const Program& program, volatile size_t* progress) {
  const auto writes_out = [](const Op& op) { return std::holds_alternative<WriteOut>(op); };
  auto owner = std::make_unique<Machine>(std::any_of(program.begin(), program.end(), writes_out));
  Machine& machine = *owner;
  Outcome outcome;
  for (const Op& op : program) {
    ++outcome.operations;
    if (progress != nullptr) *progress = outcome.operations;
    outcome.status = machine.Apply(op);
    if (outcome.status.ok() && outcome.operations % 100 == 0) outcome.status = machine.Check();
    if (!outcome.status.ok()) break;
  }
  if (outcome.status.ok()) outcome.status = machine.Check();
  if (outcome.status.ok()) outcome.status = machine.CompareAll();
  // What is broken cannot be taken apart: that would stop the program before it has said what is wrong.
  if (!outcome.status.ok()) (void)owner.release();
  return outcome;
}

Outcome RunInChild(const Program& program, bool quiet) {
  struct Shared {
    volatile size_t operations;
    char message[1000];
  };
  void* const memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  QUIRE_CHECK(memory != MAP_FAILED);
  Shared& shared = *static_cast<Shared*>(memory);
  std::fflush(nullptr);
  const pid_t child = fork();
  QUIRE_CHECK(child >= 0);
  if (child == 0) {
    if (const int null = open("/dev/null", O_WRONLY); quiet && null >= 0) dup2(null, STDERR_FILENO);
    const Outcome outcome = Run(program, &shared.operations);
    std::snprintf(shared.message, sizeof shared.message, "%s", outcome.status.ToString().c_str());
    _exit(outcome.status.ok() ? 0 : 1);
  }
  int result;
  QUIRE_CHECK(waitpid(child, &result, 0) == child);
  Outcome outcome{.operations = shared.operations, .status = absl::OkStatus()};
  if (!WIFEXITED(result) || WEXITSTATUS(result) != 0) {
    outcome.status = absl::InternalError(shared.message[0] != 0 ? shared.message : "the program was ended by a signal");
  }
  munmap(memory, sizeof(Shared));
  return outcome;
}

Program Shrink(Program program, int tries, absl::FunctionRef<bool(const Program&)> fails) {
  for (size_t piece = (program.size() + 1) / 2; piece > 0; piece /= 2) {
    for (size_t begin = 0; begin < program.size();) {
      if (tries-- == 0) return program;
      Program candidate = program;
      const auto first = candidate.begin() + static_cast<ptrdiff_t>(begin);
      candidate.erase(first, first + static_cast<ptrdiff_t>(std::min(piece, program.size() - begin)));
      if (fails(candidate)) {
        program = std::move(candidate);
      } else {
        begin += piece;
      }
    }
  }
  return program;
}

}  // namespace quire::model
