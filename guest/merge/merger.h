// Finds pages of the same content, in all guests, and has them share one frame; zero pages have none.
//
// A pass goes through all guests' pages that have frames of their own, by 64 pages of each guest in turn, or by a whole
// block: guests that run the same system have the same content at the same place more often than not, and what was
// read a moment ago is still in the CPU's cache.
//
//     hash each page ---> zero, and in the pass before too?      give its frame up
//       (XXH3, racily)    a shared frame has that content?       compare, and share it
//                         an earlier page of this pass had it?   that page's frame becomes shared; the same
//                         else                                   remember the page
//
// As in KSM, what is hashed is only a hint: a page changes hands after it has been invalidated and compared byte by
// byte under its block's lock. Unlike KSM's trees, a lookup costs one cache miss or two, and pages are merged in the
// first pass.
//
// A page that did not merge is skipped by later passes, ever more of them; one that was written to while it was shared
// is left alone for longer (KSM's smart scan). The scanner works for a share of one CPU, which grows while it finds
// something and shrinks while it does not (KSM's advisor).
#ifndef QUIRE_GUEST_MERGE_MERGER_H_
#define QUIRE_GUEST_MERGE_MERGER_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/daemon.h"
#include "base/units.h"
#include "guest/frames/frame_table.h"
#include "guest/frames/pool.h"
#include "guest/guest_memory.h"
#include "guest/merge/candidate_table.h"
#include "guest/merge/shared_frames.h"

namespace quire {

struct MergerOptions {
  // The share of one CPU that it works for while it finds something, and the least that it always may.
  double most_cpu = 0.25;
  double least_cpu = 0.005;
};

// Why a page that was looked at was not merged.
enum class MergeRefusal : uint8_t {
  kNone,        // it was not refused: nobody has looked at it yet, or it merged
  kUnique,      // no page like it was found
  kChanged,     // it changes
  kFresh,       // it is zero for the first time, and perhaps about to be written to
  kBroken,      // it was written to while it was shared
  kWholeBlock,  // too few pages of its block would be merged for taking that apart
  kBusy,        // the page or its block was in other hands
  kLost,        // the page that it was like has changed, or could not be shared
  kFull,        // as many pages as may have the shared frame already
  kNoMemory,
  kMapping,  // its guest cannot map frames that are not its own
  kWired,
};
inline constexpr size_t kMergeRefusals = 12;
// As the report names it.
absl::string_view Name(MergeRefusal refusal);

struct MergeCounters {
  Counter passes;
  Counter scanned;  // pages that were hashed
  Counter skipped;  // pages that were not, because they did not merge before
  Counter merged;   // pages that gave up their frames for a shared one
  Counter zero;     // pages that gave up their frames
  std::array<Counter, kMergeRefusals> refused;

  uint64_t Refused(MergeRefusal why) const { return refused[static_cast<size_t>(why)].value(); }
};

// Thread safe.
class Merger {
 public:
  // `with_guests` calls what it is given with all guests, by ascending number, none of which goes away meanwhile.
  using Guests = absl::Span<const std::unique_ptr<GuestMemory>>;
  using WithGuests = std::function<void(absl::FunctionRef<void(Guests)>)>;
  Merger(Pool& pool, SharedFrames& shared, CandidateTable candidates, WithGuests with_guests,
         const MergerOptions& options = {});

  // The thread runs between the two, and works while merging is on, as it is at first.
  void Start() {
    daemon_.Start();
    if (on()) daemon_.Wake();
  }
  void Stop() { daemon_.Stop(); }

  // Whether the thread merges pages; at any time. Once it is off, none is merged any more
  // when this returns; what is shared stays so until it is written to.
  void SetOn(bool on) ABSL_LOCKS_EXCLUDED(lock_);
  bool on() const { return on_.load(std::memory_order_relaxed); }

  // What is left of the pass, or a whole one if none has begun; whether merging is on or off.
  void Pass() ABSL_LOCKS_EXCLUDED(lock_);

  const MergeCounters& counters() const { return counters_; }

  // What is remembered of a page, for explanations.
  struct Memory {
    MergeRefusal why = MergeRefusal::kNone;
    int skip = 0;  // passes to come in which it is not looked at
  };
  Memory Recall(GuestId guest, Gfn gfn) const ABSL_LOCKS_EXCLUDED(lock_);
  // How many pages of a whole block have to be gained to make up for it.
  size_t SplittingPays() const;

  absl::Duration cpu_time() { return daemon_.cpu_time(); }
  // Of one CPU, that it works for now: between the options' least and most.
  double cpu_share() const ABSL_LOCKS_EXCLUDED(lock_);
  ByteCount metadata() const ABSL_LOCKS_EXCLUDED(lock_);

 private:
  // What is remembered of a page from pass to pass.
  struct Mark {
    uint8_t hash : 6;    // some bits of it
    uint8_t seen : 1;    // the hash is known
    uint8_t merged : 1;  // it gave up its frame
    uint8_t age : 4;     // passes in which it did not merge
    uint8_t skip : 4;    // passes to come in which it is not looked at
    MergeRefusal why;    // it did not merge when it was looked at last
  };
  static_assert(sizeof(Mark) == 3);

  // A page of the block in hand, and an earlier one with the same hash.
  struct Pair {
    size_t sample;
    Sharer other;
  };
  using Merges = std::vector<GuestMemory::Merge>;

  void Run();
  // The next piece; false: the pass is over.
  bool ScanNext(Guests guests) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The piece that begins with that page.
  void ScanPiece(Guests guests, GuestMemory& guest, Gfn first) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // A whole block, or part of one that is in pieces. `marks` are the guest's.
  void ScanPages(Guests guests, GuestMemory& guest, std::vector<Mark>& marks, GfnRange range)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // What is to become of the samples: merges_ into nothing and into shared frames, which are held; and pairs_. Room is
  // reserved for the pairs' holds.
  std::vector<SharedFrames::Hold> MatchSamples(const GuestMemory& guest, std::vector<Mark>& marks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // A page that is seen for the first time is not given up even if it is zero, so a glance will do for that.
  GuestMemory::HowToSample HowToSample(Mark& mark);
  // Whether what was sampled may be merged at all, by what is remembered of the page.
  bool IsSettled(Mark& mark, const GuestMemory::PageSample& sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Has the earlier pages' frames shared, block by block.
  void ShareOthers(Guests guests, absl::Span<const Pair> pairs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Counts the page, and remembers why it was refused.
  void Refuse(Mark& mark, MergeRefusal why);
  // The same for what became of a merge, if it was refused, and puts the page off.
  void RefuseUnmerged(Mark& mark, GuestMemory::Merge::Outcome outcome);
  void EndPass(Guests guests) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  bool IsMemoryShort() const;
  static void Postpone(Mark& mark, int passes);

  Pool& pool_;
  SharedFrames& shared_;
  const WithGuests with_guests_;
  const MergerOptions options_;
  const uint64_t seed_;
  std::atomic<bool> on_ = true;
  MergeCounters counters_;
  Daemon daemon_{"quire-merge", [this] { Run(); }};

  mutable absl::Mutex lock_;  // one scanner at a time; taken before all locks of guests' memory
  CandidateTable candidates_ ABSL_GUARDED_BY(lock_);
  absl::flat_hash_map<unsigned, std::vector<Mark>> marks_ ABSL_GUARDED_BY(lock_);  // by the guest's number
  Gfn next_ ABSL_GUARDED_BY(lock_);            // the piece in hand, of all guests ...
  unsigned guest_ ABSL_GUARDED_BY(lock_) = 0;  // ... from this one on
  // Where a guest's whole block was scanned, by the guest's number: where that ends, in this pass.
  absl::flat_hash_map<unsigned, Gfn> done_ ABSL_GUARDED_BY(lock_);
  double cpu_ ABSL_GUARDED_BY(lock_);  // share of one
  uint64_t scanned_before_ ABSL_GUARDED_BY(lock_) = 0;
  uint64_t gained_before_ ABSL_GUARDED_BY(lock_) = 0;
  uint64_t lost_before_ ABSL_GUARDED_BY(lock_) = 0;
  // Kept from block to block:
  GuestMemory::Samples samples_ ABSL_GUARDED_BY(lock_);
  std::vector<uint64_t> hashes_ ABSL_GUARDED_BY(lock_);
  std::vector<Pair> pairs_ ABSL_GUARDED_BY(lock_);
  Merges merges_ ABSL_GUARDED_BY(lock_);
};

}  // namespace quire

#endif  // QUIRE_GUEST_MERGE_MERGER_H_
