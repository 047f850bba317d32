// What is known of one stored page: 20 bytes.
//
//     0                    8              14        16       18     19     20
//    +--------------------+--------------+---------+--------+------+------+
//    |  hash, or the word | place    |c|t|len |kind|  refs  | area |  age |
//    +--------------------+--------------+---------+--------+------+------+
//                           46        1 1  13    3
//
//   c            codec: what the bytes are compressed with, wherever they are; no matter if len is a whole page
//   t            tried: to compress them further was not worth it
//
//   kind         where the bytes are                  place
//   kFree        nowhere                              -
//   kSameFilled  in the record: one word, repeated    -
//   kCompressed  in the pool                          slab, and object << 32
//   kWriting     the same; a copy is being written    the same
//   kDropped     nowhere; a copy is being written,    -
//                and whoever writes frees the slot
//   kBacked      in swap area `area`                  offset in units of 16 bytes
//   kForgotten   nowhere: a copy that was dropped     -
//
// `refs` is the number of pages whose content the slot is: 0 for a copy that was kept when its page came back.
//
// Four bytes are saved against natural alignment, a tenth of a percent of what is stored.
#ifndef QUIRE_GUEST_SWAP_SLOT_RECORD_H_
#define QUIRE_GUEST_SWAP_SLOT_RECORD_H_

#include <cstdint>
#include <cstring>

#include "base/units.h"

namespace quire {

enum class SlotCodec : uint8_t { kLz4, kZstd };
enum class SlotKind : uint8_t { kFree, kSameFilled, kCompressed, kWriting, kDropped, kBacked, kForgotten };

class SlotRecord {
 public:
  static constexpr int kPlaceBits = 46;

  SlotKind kind() const { return static_cast<SlotKind>(length_and_kind_ >> kLengthBits); }
  void set_kind(SlotKind kind) {
    length_and_kind_ = static_cast<uint16_t>((length_and_kind_ & kLengthMask) | static_cast<int>(kind) << kLengthBits);
  }
  // Bytes stored; kPageSize: the page as it is.
  uint32_t length() const { return length_and_kind_ & kLengthMask; }
  void set_length(uint32_t length) {
    length_and_kind_ = static_cast<uint16_t>((length_and_kind_ & ~kLengthMask) | length);
  }
  // Of the page's content; the word itself where the page is one.
  uint64_t hash() const { return hash_[0] | uint64_t{hash_[1]} << 32; }
  void set_hash(uint64_t hash) {
    hash_[0] = static_cast<uint32_t>(hash);
    hash_[1] = static_cast<uint32_t>(hash >> 32);
  }
  uint64_t place() const { return place_low_ | static_cast<uint64_t>(place_high_ & kPlaceHighMask) << 32; }
  void set_place(uint64_t place) {
    place_low_ = static_cast<uint32_t>(place);
    place_high_ = static_cast<uint16_t>((place_high_ & ~kPlaceHighMask) | (place >> 32 & kPlaceHighMask));
  }
  SlotCodec codec() const { return (place_high_ & kZstd) != 0 ? SlotCodec::kZstd : SlotCodec::kLz4; }
  void set_codec(SlotCodec codec) { SetHighBit(kZstd, codec == SlotCodec::kZstd); }
  bool tried() const { return (place_high_ & kTried) != 0; }
  void set_tried(bool tried) { SetHighBit(kTried, tried); }

  // The copy of a page that has a frame, or was one.
  bool is_kept() const {
    return refs_ == 0 && (kind() == SlotKind::kCompressed || kind() == SlotKind::kBacked || is_forgotten());
  }
  bool is_forgotten() const { return kind() == SlotKind::kForgotten; }
  uint16_t refs() const { return refs_; }
  void set_refs(uint16_t refs) { refs_ = refs; }
  uint8_t area() const { return area_; }
  void set_area(uint8_t area) { area_ = area; }
  // The generation in which it was stored, modulo 256.
  uint8_t age() const { return age_; }
  void set_age(uint8_t age) { age_ = age; }

  bool in_pool() const { return kind() == SlotKind::kCompressed || kind() == SlotKind::kWriting; }

 private:
  static constexpr int kLengthBits = 13;
  static constexpr uint16_t kLengthMask = (1 << kLengthBits) - 1;
  // Of place_high_:
  static constexpr uint16_t kPlaceHighMask = (1 << (kPlaceBits - 32)) - 1;
  static constexpr uint16_t kZstd = 1 << (kPlaceBits - 32);
  static constexpr uint16_t kTried = kZstd << 1;

  void SetHighBit(uint16_t bit, bool on) {
    place_high_ = static_cast<uint16_t>(on ? place_high_ | bit : place_high_ & ~bit);
  }

  uint32_t hash_[2] = {};
  uint32_t place_low_ = 0;
  uint16_t place_high_ = 0;
  uint16_t length_and_kind_ = 0;
  uint16_t refs_ = 0;
  uint8_t area_ = 0;
  uint8_t age_ = 0;
};

static_assert(sizeof(SlotRecord) == 20);
static_assert(kPageSize < 1 << 13, "a length fits");

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SLOT_RECORD_H_
