#include "guest/swap/slab_zone.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {
namespace {

uint16_t LoadLink(const std::byte* object) {
  uint16_t link;
  std::memcpy(&link, object, sizeof link);
  return link;
}

void StoreLink(std::byte* object, uint16_t link) { std::memcpy(object, &link, sizeof link); }

}  // namespace

// The slab size that wastes the smallest share at its end; the smaller one of two alike.
uint64_t SlabZone::BestSlabFrames(uint32_t object_bytes) {
  uint64_t best = 0;
  double best_waste = 1;
  for (uint64_t frames = 1; frames <= kMaxSlabFrames; ++frames) {
    const double waste =
        static_cast<double>(frames * kPageSize % object_bytes) / static_cast<double>(frames * kPageSize);
    if (waste < best_waste - 0.005) best = frames, best_waste = waste;
  }
  return best;
}

SlabZone::SlabZone(Pool& pool) : pool_(pool) {
  static_assert(kClasses <= uint32_t{1} << (32 - kSlabBits) && Slabs::kMaxRecords <= uint64_t{1} << kSlabBits,
                "a descriptor's value names class and slab");
  for (uint32_t i = 0; i < kClasses; ++i) {
    SizeClass& c = classes_[i];
    c.object_bytes = (i + 1) * kGranule;
    c.frames = BestSlabFrames(c.object_bytes);
    c.objects = static_cast<uint16_t>(c.frames * kPageSize / c.object_bytes);
  }
}

SlabZone::~SlabZone() { QUIRE_CHECK(held() == PageCount()); }

absl::StatusOr<SlabObject> SlabZone::Allocate(uint32_t bytes) {
  QUIRE_CHECK(bytes > 0 && bytes <= kMaxObject);
  const uint32_t number = ClassOf(bytes);
  SizeClass& c = classes_[number];
  absl::MutexLock lock(&c.lock);
  if (c.partial == kNone) {
    absl::StatusOr<uint32_t> id = NewSlab(c, static_cast<uint8_t>(number));
    if (!id.ok()) return id.status();
  }
  const uint32_t id = c.partial;
  Slab& slab = slabs_[id];
  uint16_t index = slab.first_free;
  if (index != kEndOfList) {
    slab.first_free = LoadLink(LinkOf(c, slab, index));
  } else {
    index = slab.carved++;
  }
  if (++slab.used == c.objects) Unlink(c, id);
  in_objects_.Add(c.object_bytes);
  return SlabObject{.slab = id, .index = index};
}

void SlabZone::Free(SlabObject object) {
  Slab& slab = slabs_[object.slab];
  SizeClass& c = classes_[slab.size_class];
  absl::MutexLock lock(&c.lock);
  QUIRE_CHECK(slab.live && slab.used > 0 && object.index < slab.carved);
  if (slab.used == c.objects) Link(c, object.slab);
  StoreLink(LinkOf(c, slab, object.index), slab.first_free);
  slab.first_free = object.index;
  in_objects_.Subtract(c.object_bytes);
  if (--slab.used == 0) ReleaseSlab(c, object.slab);
}

void SlabZone::Write(SlabObject object, absl::Span<const std::byte> bytes) {
  const Pin pin(*this, object);
  const Slab& slab = pin.slab_;
  const size_t offset = size_t{object.index} * classes_[slab.size_class].object_bytes;
  const absl::Span<std::byte> first = FirstPiece(slab, offset, bytes.size());
  std::memcpy(first.data(), bytes.data(), first.size());
  if (first.size() == bytes.size()) return;
  std::memcpy(ByteAt(slab, offset + first.size()), bytes.data() + first.size(), bytes.size() - first.size());
}

const std::byte* SlabZone::Read(const Pin& object, uint32_t bytes, std::byte* buffer) const {
  const Slab& slab = object.slab_;
  const size_t offset = size_t{object.index_} * classes_[slab.size_class].object_bytes;
  const absl::Span<std::byte> first = FirstPiece(slab, offset, bytes);
  if (first.size() == bytes) return first.data();
  const std::byte* const rest = ByteAt(slab, offset + first.size());
  if (rest == first.data() + first.size()) return first.data();  // the frames happen to be adjacent
  std::memcpy(buffer, first.data(), first.size());
  std::memcpy(buffer + first.size(), rest, bytes - first.size());
  return buffer;
}

FrameMigrator::Answer SlabZone::Migrate(FrameNumber from, FrameDescriptor owner, FrameNumber to) {
  SizeClass& c = classes_[owner.zone_value() >> kSlabBits];
  absl::MutexLock lock(&c.lock);
  FrameTable& frames = pool_.arena().frames();
  if (frames.Get(from) != owner) return FrameMigrator::Answer::kBusy;
  Slab& slab = slabs_[owner.zone_value() & ((uint32_t{1} << kSlabBits) - 1)];
  uint32_t none = 0;
  // Acquires what those who were the last to unpin it did to its bytes; pairs with ~Pin.
  if (!slab.pins.compare_exchange_strong(none, kMoving, std::memory_order_acquire, std::memory_order_relaxed)) {
    return FrameMigrator::Answer::kBusy;
  }
  std::memcpy(pool_.Frame(to), pool_.Frame(from), kPageSize);
  const auto place = std::find(slab.frames.begin(), slab.frames.begin() + c.frames, from.value());
  QUIRE_CHECK(place != slab.frames.begin() + c.frames);
  *place = static_cast<uint32_t>(to.value());
  frames.Set(to, owner);
  slab.pins.fetch_sub(kMoving, std::memory_order_release);  // pairs with Pin's addition
  pool_.FreeFrame(from);
  return FrameMigrator::Answer::kMoved;
}

// Takes the pin back that was one too many. The slab is moved under its class's lock.
void SlabZone::WaitForMove(const Slab& slab) const {
  slab.pins.fetch_sub(1, std::memory_order_relaxed);
  absl::MutexLock moved(&classes_[slab.size_class].lock);
}

absl::StatusOr<uint32_t> SlabZone::NewSlab(SizeClass& c, uint8_t number) {
  std::array<uint32_t, kMaxSlabFrames> frames = {};
  for (uint64_t i = 0; i < c.frames; ++i) {
    const absl::StatusOr<FrameNumber> frame = pool_.arena().Allocate(0, Reserve::kReclaim);
    if (!frame.ok()) {
      while (i-- > 0) pool_.arena().Free(FrameNumber(frames[i]), 0);
      return frame.status();
    }
    frames[i] = static_cast<uint32_t>(frame->value());
  }
  const uint32_t id = TakeSlabId();
  for (uint64_t i = 0; i < c.frames; ++i) {
    pool_.arena().frames().Set(FrameNumber(frames[i]), FrameDescriptor::Zone(/*order=*/0, ZoneValue(number, id)));
  }
  Slab& slab = slabs_[id];
  slab.frames = frames;
  slab.used = slab.carved = 0;
  slab.first_free = kEndOfList;
  slab.size_class = number;
  slab.live = true;
  held_.Add(c.frames);
  Link(c, id);
  return id;
}

void SlabZone::ReleaseSlab(SizeClass& c, uint32_t id) {
  Unlink(c, id);
  Slab& slab = slabs_[id];
  slab.live = false;
  for (uint64_t i = 0; i < c.frames; ++i) pool_.arena().Free(FrameNumber(slab.frames[i]), 0);
  held_.Subtract(c.frames);
  ReturnSlabId(id);
}

void SlabZone::Link(SizeClass& c, uint32_t id) {
  Slab& slab = slabs_[id];
  slab.previous = kNone;
  slab.next = c.partial;
  if (c.partial != kNone) slabs_[c.partial].previous = id;
  c.partial = id;
}

void SlabZone::Unlink(SizeClass& c, uint32_t id) {
  Slab& slab = slabs_[id];
  if (slab.previous != kNone) {
    slabs_[slab.previous].next = slab.next;
  } else {
    QUIRE_CHECK(c.partial == id);
    c.partial = slab.next;
  }
  if (slab.next != kNone) slabs_[slab.next].previous = slab.previous;
}

uint32_t SlabZone::TakeSlabId() {
  absl::MutexLock lock(&ids_lock_);
  if (free_ids_ == kNone) {
    const uint32_t first = slabs_.Grow();
    for (uint32_t i = slabs_.chunk_records(); i-- > 0;) {
      slabs_[first + i].next = free_ids_;
      free_ids_ = first + i;
    }
  }
  const uint32_t id = free_ids_;
  free_ids_ = slabs_[id].next;
  return id;
}

void SlabZone::ReturnSlabId(uint32_t id) {
  absl::MutexLock lock(&ids_lock_);
  slabs_[id].next = free_ids_;
  free_ids_ = id;
}

ByteCount SlabZone::metadata() const { return slabs_.metadata() + ByteCount::Bytes(sizeof *this); }

absl::Status SlabZone::Check() {
  if (absl::Status status = CheckLists(); !status.ok()) return status;
  PageCount held;
  ByteCount in_objects;
  for (uint32_t id = 0; id < slabs_.capacity(); ++id) {
    const Slab& slab = slabs_[id];
    if (!slab.live) continue;
    const SizeClass& c = classes_[slab.size_class];
    held += PageCount(c.frames);
    in_objects += ByteCount::Bytes(uint64_t{slab.used} * c.object_bytes);
  }
  if (held == this->held() && in_objects == this->in_objects()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("slabs hold ", held.in_pages(), " frames with ", in_objects.in_bytes(),
                                          " bytes of objects, but the counts say ", this->held().in_pages(), " and ",
                                          this->in_objects().in_bytes()));
}

absl::Status SlabZone::CheckLists() {
  for (SizeClass& c : classes_) {
    absl::MutexLock lock(&c.lock);
    uint32_t previous = kNone;
    for (uint32_t id = c.partial; id != kNone; id = slabs_[id].next) {
      const Slab& slab = slabs_[id];
      const bool sound = slab.live && slab.previous == previous && slab.used > 0 && slab.used < c.objects &&
                         slab.used <= slab.carved && slab.carved <= c.objects;
      if (!sound) {
        return absl::InternalError(absl::StrCat("slab ", id, " of ", c.object_bytes, "-byte objects is broken: ",
                                                slab.used, " of ", c.objects, " used, ", slab.carved, " carved"));
      }
      previous = id;
    }
  }
  return absl::OkStatus();
}

}  // namespace quire
