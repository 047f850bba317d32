#include "guest/swap/swap_space.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "guest/frames/pool_table.h"
#include "guest/swap/slab_place.h"
#include "lz4.h"
#include "xxhash.h"

namespace quire {
namespace {

// Saving less than a tenth of a page is not worth decompressing it later.
constexpr int kMaxCompressed = 3686;
static_assert(kMaxCompressed <= static_cast<int>(SlabZone::kMaxObject));

constexpr int kPage = static_cast<int>(kPageSize);

// What a fetch reads along, rather than make two transfers of one: about what a disk reads in the time of one request.
constexpr size_t kReadAcross = 16 << 10;

constexpr size_t kMostFetched = 512;  // slots

// Pages that are freed until somebody looks whether what is left is scattered.
constexpr uint32_t kLookAfter = 256;

// Less than a few slabs' worth is not worth waking a thread for.
constexpr PageCount kLeastReclaimable{64};

// The word that fills the page, if one does.
std::optional<uint64_t> FillWord(const std::byte* page) {
  uint64_t word;
  std::memcpy(&word, page, sizeof word);
  // Each word equals the one before it: one pass at memory speed, and most pages fail in the first bytes.
  if (std::memcmp(page, page + sizeof word, kPageSize - sizeof word) != 0) return std::nullopt;
  return word;
}

void Fill(std::byte* page, uint64_t word) {
  for (size_t i = 0; i < kPageSize; i += sizeof word) std::memcpy(page + i, &word, sizeof word);
}

}  // namespace

CompressionScratch::CompressionScratch()
    : state_(std::make_unique<std::byte[]>(static_cast<size_t>(LZ4_sizeofState()))),
      output_(std::make_unique<std::byte[]>(kMaxCompressed)) {}

CompressionScratch::~CompressionScratch() = default;

SwapSpace::SwapSpace(Pool& pool, std::vector<std::unique_ptr<BackingStore>> areas, absl::Duration await_for,
                     absl::Duration cold_after)
    : pool_(pool),
      hash_seed_(absl::Uniform<uint64_t>(absl::BitGen())),
      share_(PageCount(pool.budget().limit().in_pages() / 2)),
      cold_after_(cold_after),
      zone_(pool),
      slots_(pool) {
  QUIRE_CHECK(areas.size() <= UINT8_MAX);
  for (std::unique_ptr<BackingStore>& store : areas) {
    areas_.push_back(std::make_unique<SwapArea>(std::move(store), await_for));
  }
}

bool SwapSpace::IsZero(const std::byte* page) { return FillWord(page) == uint64_t{0}; }

SwapSpace::~SwapSpace() { QUIRE_CHECK(stored_.value() == 0 && kept_.value() == 0); }

uint64_t SwapSpace::HashOf(const std::byte* page) const {
  return XXH3_64bits_withSeed(page, kPageSize, hash_seed_) & hash_mask_;
}

// --- In.

StoreResult SwapSpace::Store(const std::byte* page, CompressionScratch& scratch, Incompressible incompressible) {
  if (std::optional<uint64_t> word = FillWord(page)) {
    if (*word == 0) return {.outcome = StoreOutcome::kZero, .slot = {}};
    const std::optional<SwapSlot> slot = slots_.Allocate(scratch.cursor_);
    if (!slot.has_value()) return {.outcome = StoreOutcome::kNoRoom, .slot = {}};
    same_filled_.Add();
    SlotRecord record;
    record.set_kind(SlotKind::kSameFilled);
    record.set_hash(*word);
    PutRecord(record, *slot);
    return {.outcome = StoreOutcome::kStored, .slot = *slot};
  }
  std::optional<uint64_t> hash;  // as soon as it is wanted
  if (hints_.has_value() && deduplicates_.load(std::memory_order_relaxed)) {
    hash = HashOf(page);
    if (const std::optional<SwapSlot> equal = ShareEqual(page, *hash)) {
      return {.outcome = StoreOutcome::kStored, .slot = *equal};
    }
  }
  const int length = LZ4_compress_fast_extState(scratch.state_.get(), reinterpret_cast<const char*>(page),
                                                reinterpret_cast<char*>(scratch.output_.get()), kPage, kMaxCompressed,
                                                /*acceleration=*/1);
  if (length > 0) {
    return StoreBytes(hash.has_value() ? *hash : HashOf(page), {scratch.output_.get(), static_cast<size_t>(length)},
                      StoreOutcome::kStored, scratch);
  }
  if (incompressible == Incompressible::kRefuse) return {.outcome = StoreOutcome::kIncompressible, .slot = {}};
  return StoreBytes(hash.has_value() ? *hash : HashOf(page), {page, kPageSize}, StoreOutcome::kStoredAsIs, scratch);
}

StoreResult SwapSpace::StoreBytes(uint64_t hash, absl::Span<const std::byte> bytes, StoreOutcome outcome,
                                  CompressionScratch& scratch) {
  const absl::StatusOr<SlabObject> object = zone_.Allocate(static_cast<uint32_t>(bytes.size()));
  if (!object.ok()) return {.outcome = StoreOutcome::kNoRoom, .slot = {}};
  const std::optional<SwapSlot> slot = slots_.Allocate(scratch.cursor_);
  if (!slot.has_value()) {
    zone_.Free(*object);
    return {.outcome = StoreOutcome::kNoRoom, .slot = {}};
  }
  zone_.Write(*object, static_cast<uint32_t>(slot->value()), bytes);
  in_pool_.Add();
  stored_bytes_.Add(bytes.size());
  // A generation is what is stored while a quarter of what lies in the pool is.
  if (stored_in_generation_.fetch_add(1, std::memory_order_relaxed) * 4 >= in_pool_.value()) {
    stored_in_generation_.store(0, std::memory_order_relaxed);
    EndGeneration();
  }
  SlotRecord record;
  record.set_kind(SlotKind::kCompressed);
  record.set_hash(hash);
  record.set_place(PlaceOf(*object));
  record.set_length(static_cast<uint32_t>(bytes.size()));
  record.set_age(generation_.load(std::memory_order_relaxed));
  PutRecord(record, *slot);
  if (hints_.has_value() && deduplicates_.load(std::memory_order_relaxed)) hints_->Note(hash, *slot);
  if (IsOverShare() && over_share_) over_share_();
  return {.outcome = outcome, .slot = *slot};
}

// The writer, and whoever compacts the zone, may meet the slot as soon as its kind is set.
void SwapSpace::PutRecord(const SlotRecord& record, SwapSlot slot) {
  stored_.Add();
  absl::MutexLock lock(&slots_.LockOf(slot));
  slots_[slot] = record;
  slots_[slot].set_refs(1);
}

void SwapSpace::WriteThrough(absl::Span<const Refused> pages, CompressionScratch& scratch) {
  QUIRE_CHECK(pages.size() * kPageSize <= SwapArea::kClusterBytes);
  if (pages.empty() || !has_live_areas()) return;
  RefusedSlots slots;  // before anything is written: there may be none
  while (slots.size() < pages.size()) {
    const std::optional<SwapSlot> slot = slots_.Allocate(scratch.cursor_);
    if (!slot.has_value()) break;
    slots.push_back(*slot);
  }
  for (const std::unique_ptr<SwapArea>& area : areas_) {
    if (slots.size() == pages.size() && area->MayWrite() && WriteThroughTo(*area, pages, slots)) return;
  }
  for (const SwapSlot slot : slots) slots_.Free(slot);
  if (!has_live_areas()) return;
  for (const Refused& refused : pages) refused.result->outcome = StoreOutcome::kNoRoom;
}

bool SwapSpace::WriteThroughTo(SwapArea& area, absl::Span<const Refused> pages, const RefusedSlots& slots) {
  SwapArea::Clusters cluster = area.TakeClusters(1, /*cleaning=*/false);
  if (cluster.empty()) {
    MakeRoomIn(area);
    cluster = area.TakeClusters(1, /*cleaning=*/false);
  }
  if (cluster.empty() && CleanIfIdle(area)) cluster = area.TakeClusters(1, /*cleaning=*/false);
  if (cluster.empty()) return false;
  const AlignedBytes bytes = AllocateAligned(SwapArea::kClusterBytes);
  for (size_t i = 0; i < pages.size(); ++i) std::memcpy(bytes.get() + i * kPageSize, pages[i].page, kPageSize);
  std::memset(bytes.get() + pages.size() * kPageSize, 0, SwapArea::kClusterBytes - pages.size() * kPageSize);
  if (!area.Write(cluster, {bytes.get(), SwapArea::kClusterBytes}).ok()) {
    area.PutBack(cluster);
    return false;
  }
  for (size_t i = 0; i < pages.size(); ++i) {
    SlotRecord record;
    record.set_kind(SlotKind::kBacked);
    record.set_hash(HashOf(pages[i].page));
    record.set_place(SwapArea::PlaceOf(cluster[0], i * kPageSize));
    record.set_length(kPageSize);
    record.set_area(NumberOf(area));
    area.Charge(record.place(), kPageSize);
    PutRecord(record, slots[i]);
    *pages[i].result = {.outcome = StoreOutcome::kStored, .slot = slots[i]};
  }
  area.Finish(cluster);
  return true;
}

uint8_t SwapSpace::NumberOf(const SwapArea& area) const {
  const auto place =
      std::find_if(areas_.begin(), areas_.end(), [&](const auto& other) { return other.get() == &area; });
  return static_cast<uint8_t>(place - areas_.begin());
}

// --- Back.

absl::Status SwapSpace::Load(SwapSlot slot, std::byte* page, const FetchedPages& fetched) {
  std::byte buffer[SlabZone::kMaxObject];
  SlotRecord record;
  const std::byte* bytes = nullptr;
  {
    // The bytes in the pool are copied: the writer may free them as soon as it is let.
    absl::MutexLock lock(&slots_.LockOf(slot));
    record = slots_[slot];
    QUIRE_CHECK(record.refs() > 0);
    if (record.in_pool()) bytes = CopyBytes(record, buffer);
  }
  if (record.kind() == SlotKind::kSameFilled) {
    Fill(page, record.hash());
    return absl::OkStatus();
  }
  if (record.kind() == SlotKind::kBacked) bytes = fetched.Find(slot, record);
  if (bytes == nullptr) return absl::UnavailableError("it lies in a swap area");
  return Unpack(slot, record, bytes, page);
}

const std::byte* SwapSpace::CopyBytes(const SlotRecord& record, std::byte* buffer) const {
  const SlabZone::Pin pin(zone_, ObjectOf(record));
  const std::byte* const bytes = zone_.Read(pin, record.length(), buffer);
  if (bytes != buffer) std::memcpy(buffer, bytes, record.length());
  return buffer;
}

absl::Status SwapSpace::Unpack(SwapSlot slot, const SlotRecord& record, const std::byte* bytes, std::byte* page) const {
  const absl::string_view wrong = WhatIsWrong(record, bytes, page);
  return wrong.empty() ? absl::OkStatus() : Damaged(slot, record, wrong);
}

absl::string_view SwapSpace::WhatIsWrong(const SlotRecord& record, const std::byte* bytes, std::byte* page) const {
  if (!Decompress(record, bytes, page)) return "it does not decompress";
  return HashOf(page) == record.hash() ? "" : "its checksum is wrong";
}

bool SwapSpace::Decompress(const SlotRecord& record, const std::byte* bytes, std::byte* page) const {
  if (record.length() == kPageSize) {
    std::memcpy(page, bytes, kPageSize);
    return true;
  }
  if (record.codec() == SlotCodec::kZstd) return decompressors_.Decompress({bytes, record.length()}, page);
  return LZ4_decompress_safe(reinterpret_cast<const char*>(bytes), reinterpret_cast<char*>(page),
                             static_cast<int>(record.length()), kPage) == kPage;
}

absl::Status SwapSpace::Damaged(SwapSlot slot, const SlotRecord& record, absl::string_view what) const {
  const bool backed = record.kind() == SlotKind::kBacked;
  (backed ? areas_[record.area()]->counters().errors : errors_).Add();
  const std::string where = backed ? areas_[record.area()]->store().description() : "the compressed store";
  return absl::DataLossError(absl::StrCat("swap slot ", slot.value(), " in ", where, " is damaged: ", what));
}

bool SwapSpace::IsInArea(SwapSlot slot) const {
  absl::MutexLock lock(&slots_.LockOf(slot));
  return slots_[slot].kind() == SlotKind::kBacked;
}

bool SwapSpace::has_live_areas() const {
  return std::any_of(areas_.begin(), areas_.end(), [](const auto& area) { return !area->failed(); });
}

bool SwapSpace::NeedsFetch(SwapSlot slot, const FetchedPages& fetched) const {
  if (areas_.empty()) return false;
  absl::MutexLock lock(&slots_.LockOf(slot));
  return slots_[slot].kind() == SlotKind::kBacked && fetched.Find(slot, slots_[slot]) == nullptr;
}

absl::StatusOr<FetchedPages> SwapSpace::Fetch(absl::Span<const SwapSlot> slots) {
  QUIRE_CHECK(slots.size() <= kMostFetched);
  std::vector<Wanted> wanted;
  for (const SwapSlot slot : slots) {
    absl::MutexLock lock(&slots_.LockOf(slot));
    if (slots_[slot].kind() == SlotKind::kBacked) wanted.push_back({slot, slots_[slot]});
  }
  std::sort(wanted.begin(), wanted.end(), [](const Wanted& a, const Wanted& b) {
    return std::pair(a.record.area(), a.record.place()) < std::pair(b.record.area(), b.record.place());
  });
  FetchedPages fetched;
  for (size_t begin = 0; begin < wanted.size();) {
    const uint8_t area = wanted[begin].record.area();
    size_t end = begin;
    while (end < wanted.size() && wanted[end].record.area() == area) ++end;
    const absl::Status read =
        FetchFrom(*areas_[area], absl::MakeConstSpan(wanted).subspan(begin, end - begin), fetched);
    if (!read.ok()) return read;
    begin = end;
  }
  // What has been written elsewhere meanwhile may have been overwritten while it was read.
  for (const Wanted& w : wanted) {
    absl::MutexLock lock(&slots_.LockOf(w.slot));
    if (fetched.Find(w.slot, slots_[w.slot]) == nullptr) fetched.pieces_.erase(static_cast<uint32_t>(w.slot.value()));
  }
  return fetched;
}

absl::Status SwapSpace::FetchFrom(SwapArea& area, absl::Span<const Wanted> wanted, FetchedPages& fetched) {
  // Ranges of the store, and where they go in the bytes that are read: [begin, end) goes to `at`.
  struct Range {
    size_t begin, end, at;
  };
  constexpr size_t kUnit = BackingStore::kAlignment;
  std::vector<Range> ranges;
  size_t total = 0;
  const auto offset_of = [](const Wanted& w) { return SwapArea::OffsetOf(w.record.place()).in_bytes(); };
  for (const Wanted& w : wanted) {
    const size_t begin = offset_of(w) / kUnit * kUnit;
    const size_t end = (offset_of(w) + w.record.length() + kUnit - 1) / kUnit * kUnit;
    if (ranges.empty() || begin > ranges.back().end + kReadAcross) {
      ranges.push_back({.begin = begin, .end = begin, .at = total});
    }
    total += std::max(end, ranges.back().end) - ranges.back().end;
    ranges.back().end = std::max(end, ranges.back().end);
  }
  AlignedBytes part = AllocateAligned(total);
  std::vector<BackingStore::Transfer> transfers;
  for (const Range& range : ranges) {
    transfers.push_back(
        {.offset = ByteCount::Bytes(range.begin), .bytes = {part.get() + range.at, range.end - range.begin}});
  }
  if (absl::Status status = area.Read(transfers, BackingStore::IfAway::kWait); !status.ok()) return status;
  auto range = ranges.begin();
  for (const Wanted& w : wanted) {
    while (offset_of(w) >= range->end) ++range;
    fetched.pieces_[static_cast<uint32_t>(w.slot.value())] = {
        .place = w.record.place(),
        .hash = w.record.hash(),
        .area = w.record.area(),
        .codec = w.record.codec(),
        .bytes = part.get() + range->at + (offset_of(w) - range->begin)};
  }
  fetched.parts_.push_back(std::move(part));
  return absl::OkStatus();
}

void SwapSpace::Free(SwapSlot slot) {
  {
    absl::MutexLock lock(&slots_.LockOf(slot));
    SlotRecord& record = slots_[slot];
    QUIRE_CHECK(record.refs() > 0 || record.is_kept());
    if (record.refs() > 1) {
      record.set_refs(static_cast<uint16_t>(record.refs() - 1));
      stored_.Subtract();
      shared_.Subtract();
      return;
    }
    if (record.is_kept()) {
      if (!record.is_forgotten()) DropCopy(record);
    } else {
      stored_.Subtract();
    }
    record.set_refs(0);
    if (record.kind() == SlotKind::kSameFilled) same_filled_.Subtract();
    if (record.kind() == SlotKind::kBacked) areas_[record.area()]->Drop(record.place(), record.length());
    if (record.in_pool()) FreeBytes(record);
    if (record.kind() == SlotKind::kWriting) {
      record.set_kind(SlotKind::kDropped);
      return;
    }
    record = SlotRecord();
  }
  slots_.Free(slot);
  NoticeFreed(1);
}

// The bytes in the pool.
void SwapSpace::FreeBytes(const SlotRecord& record) {
  in_pool_.Subtract();
  stored_bytes_.Subtract(record.length());
  zone_.Free(ObjectOf(record));
}

// --- Copies.

bool SwapSpace::Keep(SwapSlot slot) {
  absl::MutexLock lock(&slots_.LockOf(slot));
  SlotRecord& record = slots_[slot];
  if (record.refs() != 1 || !HasRoomToKeep(record)) return false;
  record.set_refs(0);
  stored_.Subtract();
  kept_.Add();
  KeptGauge(record).Add();
  return true;
}

// In the pool as long as nobody has to be taken out for it; in an area as long as half of it is free, like Linux
// (vm_swap_full). What is being written is about to move.
bool SwapSpace::HasRoomToKeep(const SlotRecord& record) const {
  if (record.kind() == SlotKind::kBacked) {
    return areas_[record.area()]->IsHalfFree() && areas_[record.area()]->IsReachable();
  }
  return record.kind() == SlotKind::kCompressed && !IsOverShare() &&
         pool_.FreePages() > pool_.comfortable() + kOneBlock;
}

// A copy that is out of reach is worth nothing beside a page that is in memory.
bool SwapSpace::IsCopyUsable(const SlotRecord& record) const {
  return !record.is_forgotten() && (record.kind() != SlotKind::kBacked || areas_[record.area()]->IsReachable());
}

bool SwapSpace::IsKept(SwapSlot slot) const {
  if (slot.value() >= slots_.capacity()) return false;
  absl::MutexLock lock(&slots_.LockOf(slot));
  return slots_[slot].is_kept();
}

bool SwapSpace::Holds(SwapSlot kept, const std::byte* page) const {
  SlotRecord record;
  {
    absl::MutexLock lock(&slots_.LockOf(kept));
    record = slots_[kept];
  }
  return IsCopyUsable(record) && HashOf(page) == record.hash();
}

bool SwapSpace::Revive(SwapSlot kept) {
  absl::MutexLock lock(&slots_.LockOf(kept));
  SlotRecord& record = slots_[kept];
  QUIRE_CHECK(record.is_kept());
  if (!IsCopyUsable(record)) return false;
  record.set_refs(1);
  if (record.kind() == SlotKind::kCompressed) record.set_age(generation_.load(std::memory_order_relaxed));
  KeptGauge(record).Subtract();
  kept_.Subtract();
  stored_.Add();
  return true;
}

Gauge& SwapSpace::KeptGauge(const SlotRecord& record) {
  return record.in_pool() ? kept_in_pool_ : areas_[record.area()]->counters().kept;
}

PageCount SwapSpace::DropKept(PageCount wanted) {
  if (kept_in_pool_.value() == 0) return PageCount();
  const PageCount before = zone_.held();
  const auto freed = [&] { return before - std::min(before, zone_.held()); };
  DropKept(nullptr, [&] { return kept_in_pool_.value() > 0 && freed() < wanted; });
  zone_.Drain();
  return freed();
}

// Twice: a copy that is dropped after its bytes are gone may have been used in between.
FrameMigrator::Answer SwapSpace::ReplacePoisoned(FrameNumber from, FrameDescriptor owner, FrameNumber to) {
  DropKept(nullptr, [] { return true; });
  const FrameMigrator::Answer answer = zone_.Replace(from, owner, to, Keg::FrameBytes::kLost);
  DropKept(nullptr, [] { return true; });
  return answer;
}

void SwapSpace::DropKept(const SwapArea* area, absl::FunctionRef<bool()> more) {
  for (uint64_t first = 0; first < slots_.capacity() && more(); first += SlotTable::kCluster) {
    uint32_t dropped = 0;
    {
      absl::MutexLock lock(&slots_.LockOf(SwapSlot(first)));
      for (uint64_t i = first; i < first + SlotTable::kCluster; ++i) {
        SlotRecord& record = slots_[SwapSlot(i)];
        if (!record.is_kept() || record.is_forgotten()) continue;
        if ((record.in_pool() ? nullptr : areas_[record.area()].get()) != area) continue;
        DropCopy(record);
        ++dropped;
      }
    }
    if (dropped > 0) NoticeFreed(dropped);
  }
}

void SwapSpace::DropCopy(SlotRecord& record) {
  kept_.Subtract();
  KeptGauge(record).Subtract();
  if (record.in_pool()) {
    FreeBytes(record);
  } else {
    areas_[record.area()]->Drop(record.place(), record.length());
  }
  record.set_kind(SlotKind::kForgotten);
}

// --- Together.

// Looking costs some microseconds, and a few hundred pages leave no big holes.
void SwapSpace::NoticeFreed(uint32_t pages) {
  if (freed_.fetch_add(pages, std::memory_order_relaxed) < kLookAfter) return;
  freed_.store(0, std::memory_order_relaxed);
  if (scattered_ && IsScattered()) scattered_();
}

bool SwapSpace::IsScattered() const {
  const PageCount reclaimable = zone_.reclaimable();
  return reclaimable >= kLeastReclaimable && reclaimable.in_pages() * 32 > zone_.held().in_pages();
}

PageCount SwapSpace::CompactZone(PageCount wanted) {
  absl::MutexLock compacting(&compact_lock_);
  PageCount freed;
  for (uint32_t number = 0; number < SlabZone::kZones && freed < wanted; ++number) {
    if (Zone* const zone = zone_.zone(number)) freed += CompactZone(*zone, wanted - freed);
  }
  return freed;
}

// Each round empties a slab, or fills the holes of the only one. While pages come and go that would never end.
PageCount SwapSpace::CompactZone(Zone& zone, PageCount wanted) {
  Keg& keg = zone.keg();
  const PageCount before = keg.statistics().frames;
  const auto freed = [&] { return before - std::min(before, keg.statistics().frames); };
  const Zone::Bypass bypass(zone);
  Keg::Drain drain;
  for (uint64_t rounds = keg.statistics().slabs; rounds > 0 && freed() < wanted && keg.BeginDrain(drain); --rounds) {
    bool all = true;
    for (const Keg::Owned& owned : drain.objects) all &= MoveObject(keg, owned);
    keg.EndDrain(drain);
    if (!all) break;
  }
  return freed();
}

// The number that an object bears is a hint: only the record can say that the object is still that slot's. It cannot be
// freed, read or written while the record's lock is held; what was written to it came before the record.
bool SwapSpace::MoveObject(Keg& keg, const Keg::Owned& owned) {
  if (owned.owner >= slots_.capacity()) return false;
  const SwapSlot slot(owned.owner);
  absl::MutexLock lock(&slots_.LockOf(slot));
  SlotRecord& record = slots_[slot];
  if (record.kind() != SlotKind::kCompressed || record.place() != PlaceOf(owned.object)) return false;
  const std::optional<SlabObject> to = keg.Relocate(owned.object, owned.owner);
  if (!to.has_value()) return false;
  record.set_place(PlaceOf(*to));
  return true;
}

// --- Out of the pool.

// Pages that are to be written together, in clusters that are filled one after the other.
class SwapSpace::Batch {
 public:
  struct Page {
    SwapSlot slot;
    uint64_t from;  // its place before
    uint64_t to;
  };

  // `buffer` has room for the clusters.
  Batch(SwapArea::Clusters clusters, std::byte* buffer) : clusters_(std::move(clusters)), buffer_(buffer) {}

  // Where the bytes of one more page are to go; null: it is full.
  std::byte* Add(SwapSlot slot, const SlotRecord& record) {
    size_t offset = used_;
    const size_t length = SwapArea::Padded(record.length());
    if (offset % SwapArea::kClusterBytes + length > SwapArea::kClusterBytes) {
      offset = (offset / SwapArea::kClusterBytes + 1) * SwapArea::kClusterBytes;
    }
    if (offset + length > clusters_.size() * SwapArea::kClusterBytes) return nullptr;
    std::memset(buffer_ + used_, 0, offset - used_);
    used_ = offset + length;
    pages_.push_back(
        {.slot = slot,
         .from = record.place(),
         .to = SwapArea::PlaceOf(clusters_[offset / SwapArea::kClusterBytes], offset % SwapArea::kClusterBytes)});
    return buffer_ + offset;
  }
  void ZeroRest() { std::memset(buffer_ + used_, 0, UsedClusters() * SwapArea::kClusterBytes - used_); }

  const std::vector<Page>& pages() const { return pages_; }
  bool has_clusters() const { return !clusters_.empty(); }
  absl::Span<const uint32_t> used() const { return absl::MakeConstSpan(clusters_).first(UsedClusters()); }
  absl::Span<const uint32_t> unused() const { return absl::MakeConstSpan(clusters_).subspan(UsedClusters()); }
  absl::Span<std::byte> bytes() const { return {buffer_, UsedClusters() * SwapArea::kClusterBytes}; }
  ByteCount size() const { return ByteCount::Bytes(used_); }

 private:
  size_t UsedClusters() const { return (used_ + SwapArea::kClusterBytes - 1) / SwapArea::kClusterBytes; }

  const SwapArea::Clusters clusters_;
  std::byte* const buffer_;
  size_t used_ = 0;  // bytes
  std::vector<Page> pages_;
};

ByteCount SwapSpace::WriteOut(ByteCount wanted) {
  absl::MutexLock writing(&write_lock_);
  AllocateBuffer();
  ByteCount written;
  for (const std::unique_ptr<SwapArea>& area : areas_) {
    MakeRoomIn(*area);
    written += WriteOutTo(*area, written < wanted ? wanted - written : ByteCount());
  }
  // Cleaning costs more than writing: for areas in which nothing is free.
  for (const std::unique_ptr<SwapArea>& area : areas_) {
    while (written < wanted && area->MayWrite() && Clean(*area)) {
      written += ByteCount::Bytes(SwapArea::kClusterBytes) + WriteOutTo(*area, wanted - written);
    }
  }
  return written;
}

// What costs nobody anything: pages that are gone, and copies.
void SwapSpace::MakeRoomIn(SwapArea& area) {
  area.DiscardEmpty();
  DropKept(&area, [&] { return area.counters().kept.value() > 0 && area.MayWrite() && !area.HasRoom(); });
  area.DiscardEmpty();
}

ByteCount SwapSpace::WriteOutTo(SwapArea& area, ByteCount wanted) {
  ByteCount written;
  while (written < wanted && area.MayWrite()) {
    Batch batch(area.TakeClusters(SwapArea::kMostAtOnce, /*cleaning=*/false), buffer_.get());
    if (!batch.has_clusters()) break;
    Collect(batch);
    if (!WriteBatch(area, batch)) break;
    written += batch.size();
  }
  return written;
}

// Looks at slots in their order, which is roughly that in which their pages went out, from where it stopped last; first
// for old ones only, and for younger ones when it has been round.
void SwapSpace::Collect(Batch& batch) {
  const uint8_t generation = generation_.load(std::memory_order_relaxed);
  if (generation != collected_in_) least_age_ = kOldest;
  collected_in_ = generation;
  for (;; --least_age_) {
    const uint32_t clusters = slots_.capacity() / SlotTable::kCluster;
    for (uint32_t looked = 0; looked < clusters; ++looked) {
      if (!CollectFromCluster(SwapSlot(uint64_t{hand_ % clusters} * SlotTable::kCluster), generation, batch)) return;
      ++hand_;
    }
    if (least_age_ == 0) return;
  }
}

// False: the batch is full.
bool SwapSpace::CollectFromCluster(SwapSlot first, uint8_t generation, Batch& batch) {
  absl::InlinedVector<SwapSlot, SlotTable::kCluster> old;
  {
    absl::MutexLock lock(&slots_.LockOf(first));
    for (uint64_t i = 0; i < SlotTable::kCluster; ++i) {
      const SwapSlot slot(first.value() + i);
      const SlotRecord& record = slots_[slot];
      const uint8_t age = static_cast<uint8_t>(generation - record.age());
      if (record.kind() == SlotKind::kCompressed && record.refs() > 0 && age >= least_age_) old.push_back(slot);
    }
  }
  for (const SwapSlot slot : old) {
    absl::MutexLock lock(&slots_.LockOf(slot));
    SlotRecord& record = slots_[slot];
    if (record.kind() != SlotKind::kCompressed || record.refs() == 0) continue;
    std::byte* const to = batch.Add(slot, record);
    if (to == nullptr) return false;
    CopyBytes(record, to);
    record.set_kind(SlotKind::kWriting);
  }
  return true;
}

bool SwapSpace::WriteBatch(SwapArea& area, Batch& batch) {
  area.PutBack(batch.unused());
  batch.ZeroRest();
  const bool written = !batch.pages().empty() && area.Write(batch.used(), batch.bytes()).ok();
  for (const Batch::Page& page : batch.pages()) Settle(page.slot, page.from, page.to, area, written);
  NoticeFreed(static_cast<uint32_t>(batch.pages().size()));
  if (written) {
    area.Finish(batch.used());
  } else {
    area.PutBack(batch.used());
  }
  return written;
}

void SwapSpace::Settle(SwapSlot slot, uint64_t from, uint64_t to, SwapArea& area, bool written) {
  {
    absl::MutexLock lock(&slots_.LockOf(slot));
    SlotRecord& record = slots_[slot];
    switch (record.kind()) {
      case SlotKind::kWriting:
        record.set_kind(SlotKind::kCompressed);
        if (!written) return;
        FreeBytes(record);
        break;
      case SlotKind::kBacked:  // it was cleaned out
        if (!written || record.place() != from || record.area() != NumberOf(area)) return;
        area.Drop(from, record.length());
        break;
      case SlotKind::kDropped:
        break;
      default:
        return;  // freed, and perhaps another page's by now
    }
    if (record.kind() != SlotKind::kDropped) {
      record.set_kind(SlotKind::kBacked);
      record.set_place(to);
      record.set_area(NumberOf(area));
      area.Charge(to, record.length());
      return;
    }
    record = SlotRecord();
  }
  slots_.Free(slot);
}

bool SwapSpace::CleanIfIdle(SwapArea& area) {
  if (!write_lock_.TryLock()) return false;
  AllocateBuffer();
  const bool gained = Clean(area);
  write_lock_.Unlock();
  return gained;
}

void SwapSpace::AllocateBuffer() {
  if (buffer_ == nullptr) buffer_ = AllocateAligned(SwapArea::kMostAtOnce * SwapArea::kClusterBytes);
}

bool SwapSpace::Clean(SwapArea& area) {
  const SwapArea::Clusters victims = area.BeginCleaning();
  if (victims.empty()) return false;
  const AlignedBytes bytes = AllocateAligned(victims.size() * SwapArea::kClusterBytes);
  Batch batch(area.TakeClusters(SwapArea::kMostAtOnce, /*cleaning=*/true), buffer_.get());
  const bool read = ReadVictims(area, victims, bytes.get());
  // Nobody keeps a list of what lives in a cluster: cleaning is rare, and the table is short beside the pages.
  for (uint64_t first = 0; read && first < slots_.capacity(); first += SlotTable::kCluster) {
    CollectFromVictims(SwapSlot(first), area, victims, bytes.get(), batch);
  }
  const bool nothing_lived = read && batch.pages().empty();
  const bool gained = WriteBatch(area, batch) || nothing_lived;
  area.EndCleaning(victims);
  area.DiscardEmpty();
  return gained;
}

// One that cannot be read is never tried again: the others would not be cleaned for it.
bool SwapSpace::ReadVictims(SwapArea& area, absl::Span<const uint32_t> victims, std::byte* bytes) {
  std::vector<BackingStore::Transfer> transfers;
  for (size_t i = 0; i < victims.size(); ++i) {
    transfers.push_back({.offset = SwapArea::OffsetOf(SwapArea::PlaceOf(victims[i], 0)),
                         .bytes = {bytes + i * SwapArea::kClusterBytes, SwapArea::kClusterBytes}});
  }
  const absl::Status read = area.Read(transfers, BackingStore::IfAway::kFail);
  if (!absl::IsDataLoss(read)) return read.ok();
  for (size_t i = 0; i < victims.size(); ++i) {
    const absl::Status one = area.Read({&transfers[i], 1}, BackingStore::IfAway::kFail);
    if (absl::IsDataLoss(one)) area.NeverClean(victims[i]);
  }
  return false;
}

void SwapSpace::CollectFromVictims(SwapSlot first, SwapArea& area, absl::Span<const uint32_t> victims,
                                   const std::byte* bytes, Batch& batch) {
  absl::MutexLock lock(&slots_.LockOf(first));
  for (uint64_t i = 0; i < SlotTable::kCluster; ++i) {
    const SwapSlot slot(first.value() + i);
    SlotRecord& record = slots_[slot];
    if (record.kind() != SlotKind::kBacked || record.area() != NumberOf(area)) continue;
    const auto victim = std::find(victims.begin(), victims.end(), SwapArea::ClusterOf(record.place()));
    if (victim == victims.end()) continue;
    if (record.is_kept()) {
      DropCopy(record);
      continue;
    }
    std::byte* const to = batch.Add(slot, record);
    if (to == nullptr) return;
    const size_t inside = SwapArea::OffsetOf(record.place()).in_bytes() % SwapArea::kClusterBytes;
    std::memcpy(to, bytes + static_cast<size_t>(victim - victims.begin()) * SwapArea::kClusterBytes + inside,
                record.length());
  }
}

// --- What there is.

bool SwapSpace::IsAwaitingArea() const {
  return std::any_of(areas_.begin(), areas_.end(), [](const auto& area) { return area->IsAwaited(); });
}

bool SwapSpace::HasRoomInArea() const {
  return std::any_of(areas_.begin(), areas_.end(), [](const auto& area) { return area->HasRoom(); });
}

std::string SwapSpace::DescribeAreas() const {
  std::string text;
  for (const std::unique_ptr<SwapArea>& area : areas_) {
    absl::StrAppend(&text, "; ", area->store().description(), " ", area->StateForPeople());
  }
  return text;
}

uint32_t SwapSpace::RefsOf(SwapSlot slot) const {
  if (slot.value() >= slots_.capacity()) return 0;
  absl::MutexLock lock(&slots_.LockOf(slot));
  return slots_[slot].refs();
}

SwapSpace::SlotFacts SwapSpace::Describe(SwapSlot slot) const {
  if (slot.value() >= slots_.capacity()) return {};
  absl::MutexLock lock(&slots_.LockOf(slot));
  const SlotRecord& record = slots_[slot];
  SlotFacts facts{.length = record.length(), .zstd = record.codec() == SlotCodec::kZstd, .pages = record.refs()};
  using Where = SlotFacts::Where;
  if (record.in_pool()) {
    facts.where = Where::kPool;
  } else if (record.kind() == SlotKind::kBacked) {
    facts.where = Where::kArea;
    facts.area = std::string(areas_[record.area()]->store().name());
  } else if (record.kind() == SlotKind::kSameFilled) {
    facts.where = Where::kRecord;
  }
  return facts;
}

std::vector<ZoneStatistics> SwapSpace::zones() const {
  std::vector<ZoneStatistics> all = zone_.statistics();
  const auto add = [&](absl::string_view name, ByteCount size, const TableStatistics& table) {
    all.push_back({.name = std::string(name),
                   .size = size,
                   .used = table.used,
                   .free = table.free,
                   .requests = table.requests,
                   .failures = table.failures,
                   .frames = table.frames});
  };
  add("slots", ByteCount::Bytes(sizeof(SlotRecord)), slots_.slots());
  add("slot-clusters", SlotTable::kClusterSize, slots_.clusters());
  add("slabs", ByteCount::Bytes(sizeof(Slab)), zone_.slabs());
  return all;
}

ByteCount SwapSpace::metadata() const {
  ByteCount bytes = zone_.metadata() + decompressors_.metadata();
  if (hints_.has_value()) bytes += hints_->metadata();
  {
    absl::MutexLock lock(&recompress_lock_);
    if (zstd_ != nullptr) bytes += zstd_->metadata();
  }
  for (const std::unique_ptr<SwapArea>& area : areas_) bytes += area->metadata();
  return bytes;
}

SwapSpace::Statistics SwapSpace::statistics() const {
  zone_.Drain();
  return {.stored = PageCount(stored_.value()),
          .shared = PageCount(shared_.value()),
          .deduplicated = deduplicated_.value(),
          .same_filled = PageCount(same_filled_.value()),
          .kept = PageCount(kept_.value()),
          .in_pool = PageCount(in_pool_.value()),
          .stored_bytes = ByteCount::Bytes(stored_bytes_.value()),
          .held = zone_.held(),
          .recompressed = recompressed_.value(),
          .recompression_saved = ByteCount::Bytes(recompression_saved_.value()),
          .errors = errors_.value()};
}

absl::Status SwapSpace::Check() {
  uint64_t backed = same_filled_.value() + in_pool_.value();
  for (const std::unique_ptr<SwapArea>& area : areas_) {
    if (absl::Status status = area->Check(); !status.ok()) return status;
    backed += area->counters().pages.value();
  }
  if (backed != stored_.value() - shared_.value() + kept_.value()) {
    return absl::InternalError(absl::StrCat("swap space: ", stored_.value(), " pages are stored, ", shared_.value(),
                                            " of them with others, and copies of ", kept_.value(), " kept, but ",
                                            backed, " lie in its stores"));
  }
  return zone_.Check();
}

void SwapSpace::DamageForTesting(SwapSlot slot) {
  absl::MutexLock lock(&slots_.LockOf(slot));
  const SlotRecord& record = slots_[slot];
  QUIRE_CHECK(record.in_pool());
  std::byte buffer[SlabZone::kMaxObject];
  CopyBytes(record, buffer);
  buffer[record.length() / 2] = ~buffer[record.length() / 2];
  zone_.Write(ObjectOf(record), static_cast<uint32_t>(slot.value()), {buffer, record.length()});
}

}  // namespace quire
