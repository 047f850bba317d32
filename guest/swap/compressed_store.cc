#include "guest/swap/compressed_store.h"

#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "lz4.h"
#include "xxhash.h"

namespace quire {
namespace {

// Saving less than a tenth of a page is not worth decompressing it later.
constexpr int kMaxCompressed = 3686;
static_assert(kMaxCompressed <= static_cast<int>(SlabZone::kMaxObject));

constexpr int kPage = static_cast<int>(kPageSize);

uint32_t Checksum(const std::byte* page) { return static_cast<uint32_t>(XXH3_64bits(page, kPageSize)); }

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

StoreResult CompressedStore::Store(const std::byte* page, CompressionScratch& scratch, Incompressible incompressible) {
  if (std::optional<uint64_t> word = FillWord(page)) {
    if (*word == 0) return {.outcome = StoreOutcome::kZero, .slot = {}};
    same_filled_.Add();
    return {.outcome = StoreOutcome::kStored,
            .slot = PutRecord({.location = *word, .checksum = Checksum(page), .kind = Kind::kSameFilled})};
  }
  const int length = LZ4_compress_fast_extState(scratch.state_.get(), reinterpret_cast<const char*>(page),
                                                reinterpret_cast<char*>(scratch.output_.get()), kPage, kMaxCompressed,
                                                /*acceleration=*/1);
  if (length > 0) {
    return StoreBytes(page, {scratch.output_.get(), static_cast<size_t>(length)}, StoreOutcome::kStored);
  }
  if (incompressible == Incompressible::kRefuse) return {.outcome = StoreOutcome::kIncompressible, .slot = {}};
  return StoreBytes(page, {page, kPageSize}, StoreOutcome::kStoredAsIs);
}

StoreResult CompressedStore::StoreBytes(const std::byte* page, absl::Span<const std::byte> bytes,
                                        StoreOutcome outcome) {
  const absl::StatusOr<SlabObject> object = zone_.Allocate(static_cast<uint32_t>(bytes.size()));
  if (!object.ok()) return {.outcome = StoreOutcome::kNoRoom, .slot = {}};
  zone_.Write(*object, bytes);
  stored_bytes_.Add(bytes.size());
  return {.outcome = outcome,
          .slot = PutRecord({.location = object->slab | uint64_t{object->index} << 32,
                             .checksum = Checksum(page),
                             .length = static_cast<uint16_t>(bytes.size()),
                             .kind = Kind::kCompressed})};
}

absl::Status CompressedStore::Load(SwapSlot slot, std::byte* page) const {
  const Record& record = slots_[static_cast<uint32_t>(slot.value())];
  QUIRE_CHECK(record.kind != Kind::kFree);
  bool whole = true;
  if (record.kind == Kind::kSameFilled) {
    Fill(page, record.location);
  } else {
    std::byte buffer[SlabZone::kMaxObject];
    const SlabZone::Pin pin(zone_, ObjectOf(record));
    const std::byte* const stored = zone_.Read(pin, record.length, buffer);
    if (record.length == kPageSize) {
      std::memcpy(page, stored, kPageSize);
    } else {
      whole = LZ4_decompress_safe(reinterpret_cast<const char*>(stored), reinterpret_cast<char*>(page), record.length,
                                  kPage) == kPage;
    }
  }
  if (whole && Checksum(page) == record.checksum) return absl::OkStatus();
  errors_.Add();
  return absl::DataLossError(absl::StrCat("swap slot ", slot.value(), " of the compressed store is damaged: ",
                                          whole ? "its checksum is wrong" : "it does not decompress"));
}

void CompressedStore::Free(SwapSlot slot) {
  const uint32_t index = static_cast<uint32_t>(slot.value());
  Record& record = slots_[index];
  QUIRE_CHECK(record.kind != Kind::kFree);
  if (record.kind == Kind::kSameFilled) {
    same_filled_.Subtract();
  } else {
    stored_bytes_.Subtract(record.length);
    zone_.Free(ObjectOf(record));
  }
  stored_.Subtract();
  absl::MutexLock lock(&lock_);
  record = Record{.location = free_slots_};
  free_slots_ = index;
}

SwapSlot CompressedStore::PutRecord(const Record& record) {
  stored_.Add();
  absl::MutexLock lock(&lock_);
  if (free_slots_ == kNone) {
    const uint32_t first = slots_.Grow();
    for (uint32_t i = slots_.chunk_records(); i-- > 0;) {
      slots_[first + i].location = free_slots_;
      free_slots_ = first + i;
    }
  }
  const uint32_t index = free_slots_;
  free_slots_ = static_cast<uint32_t>(slots_[index].location);
  slots_[index] = record;
  return SwapSlot(index);
}

bool CompressedStore::IsLive(SwapSlot slot) const {
  const uint32_t index = static_cast<uint32_t>(slot.value());
  return index < slots_.capacity() && slots_[index].kind != Kind::kFree;
}

CompressedStore::Statistics CompressedStore::statistics() const {
  return {.stored = PageCount(stored_.value()),
          .same_filled = PageCount(same_filled_.value()),
          .stored_bytes = ByteCount::Bytes(stored_bytes_.value()),
          .held = zone_.held(),
          .errors = errors_.value()};
}

void CompressedStore::DamageForTesting(SwapSlot slot) {
  const Record& record = slots_[static_cast<uint32_t>(slot.value())];
  QUIRE_CHECK(record.kind == Kind::kCompressed);
  std::byte buffer[SlabZone::kMaxObject];
  {
    const SlabZone::Pin pin(zone_, ObjectOf(record));
    std::memmove(buffer, zone_.Read(pin, record.length, buffer), record.length);
  }
  buffer[record.length / 2] = ~buffer[record.length / 2];
  zone_.Write(ObjectOf(record), {buffer, record.length});
}

}  // namespace quire
