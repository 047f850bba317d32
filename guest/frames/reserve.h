#ifndef QUIRE_GUEST_FRAMES_RESERVE_H_
#define QUIRE_GUEST_FRAMES_RESERVE_H_

#include <cstdint>

namespace quire {

// Which part of free memory an allocation may use.
enum class Reserve : uint8_t {
  kNormal,   // what lies above the min watermark
  kReclaim,  // everything: the caller is about to free more than it takes
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_RESERVE_H_
