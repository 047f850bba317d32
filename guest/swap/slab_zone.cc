#include "guest/swap/slab_zone.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {

SlabZone::SlabZone(Pool& pool) : pool_(pool), slabs_(pool) {
  static_assert(kZones < Slab::kNone, "a slab names its keg");
}

SlabZone::~SlabZone() {
  Drain();
  QUIRE_CHECK(held() == PageCount());
  for (const auto& zone : zones_) delete zone.load();
}

absl::StatusOr<SlabObject> SlabZone::Allocate(uint32_t bytes) {
  QUIRE_CHECK(bytes > 0 && bytes <= kMaxObject);
  const uint32_t number = NumberFor(bytes);
  Zone* const known = zone(number);
  return (known != nullptr ? *known : MakeZone(number)).Allocate();
}

Zone& SlabZone::MakeZone(uint32_t number) {
  absl::MutexLock lock(&make_lock_);
  if (zone(number) == nullptr) {
    const uint32_t bytes = number + 1 < kZones ? (number + 1) * kStep : kMaxObject;
    const std::string name = number + 1 < kZones ? absl::StrCat("compressed-", bytes) : "incompressible";
    zones_[number].store(
        new Zone(pool_, slabs_, held_, static_cast<uint8_t>(number), {.name = name, .object_bytes = bytes}),
        std::memory_order_release);
  }
  return *zone(number);
}

void SlabZone::Drain() const {
  for (uint32_t i = 0; i < kZones; ++i) {
    if (Zone* const z = zone(i)) z->Drain();
  }
}

void SlabZone::Write(SlabObject object, uint32_t owner, absl::Span<const std::byte> bytes) {
  Pin(*this, object).Write(owner, bytes);
}

// A slab stays its keg's while it has an object.
Zone& SlabZone::ZoneOf(SlabObject object) const {
  const uint8_t number = slabs_[object.slab].keg.load(std::memory_order_relaxed);
  QUIRE_CHECK(number < kZones);
  return *zone(number);
}

// The descriptor may be out of date. Slabs are never forgotten, so what it names can be looked at; the keg looks again
// under its lock.
FrameMigrator::Answer SlabZone::Replace(FrameNumber from, FrameDescriptor owner, FrameNumber to,
                                        Keg::FrameBytes bytes) {
  const uint8_t number = slabs_[owner.zone_value()].keg.load(std::memory_order_relaxed);
  return number < kZones ? zone(number)->keg().Replace(from, owner, to, bytes) : FrameMigrator::Answer::kBusy;
}

ByteCount SlabZone::in_objects() const {
  ByteCount bytes;
  for (const ZoneStatistics& s : statistics()) bytes += ByteCount::Bytes(s.used * s.size.in_bytes());
  return bytes;
}

PageCount SlabZone::reclaimable() const {
  PageCount frames;
  for (uint32_t i = 0; i < kZones; ++i) {
    if (const Zone* const z = zone(i)) frames += z->keg().reclaimable();
  }
  return frames;
}

ByteCount SlabZone::metadata() const {
  ByteCount bytes = ByteCount::Bytes(sizeof *this);
  for (uint32_t i = 0; i < kZones; ++i) {
    if (const Zone* const z = zone(i)) bytes += z->metadata();
  }
  return bytes;
}

std::vector<ZoneStatistics> SlabZone::statistics() const {
  std::vector<ZoneStatistics> all;
  for (uint32_t i = 0; i < kZones; ++i) {
    if (const Zone* const z = zone(i)) all.push_back(z->statistics());
  }
  return all;
}

absl::Status SlabZone::Check() const {
  PageCount frames;
  for (uint32_t i = 0; i < kZones; ++i) {
    const Zone* const z = zone(i);
    if (z == nullptr) continue;
    if (absl::Status status = z->keg().Check(); !status.ok()) return status;
    frames += z->statistics().frames;
  }
  if (frames == held()) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("kegs hold ", frames.in_pages(), " frames, but the count says ", held().in_pages()));
}

}  // namespace quire
