// Where the arena's blocks come from: the pool, or a fake.
#ifndef QUIRE_GUEST_FRAMES_BLOCK_SOURCE_H_
#define QUIRE_GUEST_FRAMES_BLOCK_SOURCE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "base/units.h"
#include "guest/frames/reserve.h"

namespace quire {

// The arena makes one call at a time. It holds a lock of its own meanwhile: an implementation must not call the arena.
class BlockSource {
 public:
  virtual ~BlockSource() = default;

  // Charges and populates one whole block of the arena that is not populated; its frames read as zero afterwards.
  // Errors: Unavailable        the limit, or what `reserve` may use of it, is reached
  //         ResourceExhausted  the host has no memory for it
  // Nothing has changed then.
  virtual absl::Status AcquireBlock(FrameRange block, Reserve reserve) = 0;

  // Frees a block that was acquired, and its charge. Its content is gone.
  virtual void ReturnBlock(FrameRange block) = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_BLOCK_SOURCE_H_
