#include "guest/explain.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guest/frames/frame_table.h"
#include "guest/guest_memory.h"
#include "guest/huge/block_refusal.h"
#include "guest/huge/granularity.h"
#include "guest/merge/merger.h"
#include "guest/merge/shared_frames.h"

namespace quire {
namespace {

using SlotFacts = SwapSpace::SlotFacts;

uint64_t CountOf(const Explanation& e, PageState state) { return e.block_pages[static_cast<size_t>(state)]; }

std::string Pages(uint64_t n) { return n == 1 ? "1 page" : absl::StrCat(n, " pages"); }

// --- Residence.

std::string WhereStored(const SlotFacts& slot) {
  const char* const how = slot.length == kPageSize ? "as it is" : slot.zstd ? "with zstd" : "with LZ4";
  switch (slot.where) {
    case SlotFacts::Where::kRecord:
      return "as one word that fills it, which takes no memory of its own";
    case SlotFacts::Where::kPool:
      return absl::StrFormat("in the pool, in %d bytes (%s)", slot.length, how);
    case SlotFacts::Where::kArea:
      return absl::StrFormat("in a swap area (%s), in %d bytes (%s)", slot.area, slot.length, how);
    case SlotFacts::Where::kNowhere:
      break;
  }
  return "somewhere else by now";
}

std::string Residence(const Explanation& e) {
  switch (e.state) {
    case PageState::kAbsent:
      return "It is absent: it has no memory and reads as zero, because it was never touched, was given up by the "
             "guest, or was found to be zero.";
    case PageState::kResident:
      return absl::StrCat("It is resident, in frame ", e.frame->value(), e.zero ? ", which is all zeros now." : ".");
    case PageState::kOut:
      return absl::StrCat("It is out: it was not used for a while, so nobody maps it, but its frame ", e.frame->value(),
                          " is kept, and the next touch takes it back.");
    case PageState::kInTransit:
      return "It is in transit: a copy of it is being stored. A touch takes it back.";
    case PageState::kSwapped: {
      std::string text = absl::StrCat("It is swapped: it lies ", WhereStored(*e.stored), ".");
      if (e.stored->pages > 1) absl::StrAppend(&text, " ", Pages(e.stored->pages), " have this content and share it.");
      return text;
    }
    case PageState::kPoisoned:
      return "It is poisoned: its content is lost.";
    case PageState::kInherited:
      return "It is inherited: it has no memory of its own and reads as the same page of the guest's template, whose "
             "frame may be mapped for it, read-only.";
    case PageState::kShared:
      return absl::StrCat("It is resident, in frame ", e.frame->value(), ", read-only: ", Pages(e.sharers),
                          " share it.");
  }
  return "";
}

std::string KeptCopy(const Explanation& e) {
  if (e.state == PageState::kSwapped || !e.stored.has_value()) return "";
  if (e.stored->where == SlotFacts::Where::kNowhere) return "";
  return absl::StrCat(" A copy from the time before is kept ", WhereStored(*e.stored),
                      ": if the page is as it was when it goes out again, nothing has to be stored.");
}

// --- Whole blocks.

// What its pages are, but for those that are simply in.
std::string BlockInPieces(const Explanation& e) {
  std::string text;
  const auto add = [&](PageState state, const char* what) {
    if (const uint64_t n = CountOf(e, state); n > 0) absl::StrAppend(&text, text.empty() ? "" : ", ", n, " ", what);
  };
  add(PageState::kAbsent, "absent");
  add(PageState::kOut, "out");
  add(PageState::kInTransit, "in transit");
  add(PageState::kSwapped, "swapped");
  add(PageState::kShared, "shared");
  add(PageState::kInherited, "inherited");
  add(PageState::kPoisoned, "poisoned");
  return text.empty() ? "all resident, in frames that do not follow each other" : text;
}

std::string WhyInPieces(const GuestMemory::PageFacts& facts, BlockPolicy policy) {
  switch (*facts.why_not_whole) {
    case BlockRefusal::kPartial:
      return "the guest's memory ends within it.";
    case BlockRefusal::kPoisoned:
      return "a page of it is lost.";
    case BlockRefusal::kShared:
      return "pages of it share frames with others, which is worth more; each of them that is written to leaves.";
    case BlockRefusal::kInherited:
      return "pages of it are the template's, which cost nothing; each of them that is written to is copied.";
    case BlockRefusal::kWired:
      return "a page of it is wired, and would have to move.";
    case BlockRefusal::kInTransit:
      return "pages of it are being stored just now.";
    case BlockRefusal::kLately:
      return "it had come in whole lately and went out again, and memory is short: guests are at work in more blocks "
             "than fit.";
    case BlockRefusal::kLimit:
      return "its guest is at its own limit.";
    case BlockRefusal::kMemory:
      return "free memory is short of a block.";
    case BlockRefusal::kScattered:
      return "there is free memory for it, but scattered: compaction has to move pages together first.";
    case BlockRefusal::kHost:
      return "this host has no 2 MiB pages for windows (`quire doctor` says why).";
    case BlockRefusal::kNotAsked:
      return policy != BlockPolicy::kNever
                 ? "only what a guest asks for is whole (--huge=advise), and it has not asked for this one."
                 : "whole blocks are switched off (--huge=never).";
    case BlockRefusal::kUnread:
      return "a page of it could not be read back.";
  }
  return "";
}

void ExplainBlock(Explanation& e, GuestMemory::PageFacts facts, const GranularityOptions& options, BlockPolicy policy) {
  const uint64_t number = BlockOf(e.gfn).value();
  if (facts.whole) {
    const bool in = CountOf(e, PageState::kResident) == kPagesPerBlock;
    e.huge = absl::StrCat("Its block, ", number, ", is whole: ",
                          in ? "one entry of 2 MiB may map it."
                             : "its 512 pages lie side by side, and a touch maps them by one entry of 2 MiB again.");
    return;
  }
  if (!facts.may_be_whole) facts.why_not_whole = BlockRefusal::kNotAsked;
  e.huge = absl::StrCat("Its block, ", number, ", is in pieces (", BlockInPieces(e), "): ");
  if (facts.why_not_whole.has_value()) {
    e.huge_refused = std::string(Name(*facts.why_not_whole));
    absl::StrAppend(&e.huge, WhyInPieces(facts, policy));
    return;
  }
  absl::StrAppend(
      &e.huge, "nothing speaks against it, but its faults do not ask for it. It comes in whole by a stream (",
      options.stream_faults, " faults in a row, each where the last one ended), or when ", options.concentrated_faults,
      " of the guest's latest ", options.concentration_window, " faults are in it.");
}

// --- Merging.

std::string WhyUnmerged(MergeRefusal why, const MemoryManager& manager) {
  switch (why) {
    case MergeRefusal::kNone:
      return "the merger has not come to it yet, or has it before it.";
    case MergeRefusal::kUnique:
      return "no page like it was found.";
    case MergeRefusal::kChanged:
      return "its content was another in each of the last two passes, so it changes too often.";
    case MergeRefusal::kFresh:
      return "it was found to be zero for the first time, and is perhaps about to be written to.";
    case MergeRefusal::kBroken:
      return "it was shared before and then written to, so it is left alone for longer.";
    case MergeRefusal::kWholeBlock:
      return absl::StrCat("its block is whole, and stays so unless ", manager.merger().SplittingPays(),
                          " of its pages can be gained: fewer when memory is short.");
    case MergeRefusal::kBusy:
      return "it, or its block, was in other hands when its turn came.";
    case MergeRefusal::kLost:
      return "the page that it was like has changed, or could not be shared.";
    case MergeRefusal::kFull:
      return absl::StrCat("a frame with its content is shared by as many pages as may, ",
                          manager.shared().max_sharing(), ", and another copy is to be begun yet.");
    case MergeRefusal::kNoMemory:
      return "there was no memory for a shared frame.";
    case MergeRefusal::kMapping:
      return "the process has not the mappings left to show its guest frames of others (vm.max_map_count).";
    case MergeRefusal::kWired:
      return "it is wired: it stays where it is.";
  }
  return "";
}

// What needs no look at what the merger remembers; empty: that does.
std::string MergingOf(const Explanation& e, const MemoryManager& manager) {
  switch (e.state) {
    case PageState::kShared:
      return absl::StrCat("It is merged: a write gives it a frame of its own again.",
                          e.sharers >= manager.shared().max_sharing()
                              ? " As many pages as may have its frame: others like it begin a second copy."
                              : "");
    case PageState::kAbsent:
      return "There is nothing to merge.";
    case PageState::kInherited:
      return "It is shared with the template, until it is written to; the template's page may be merged with others.";
    case PageState::kPoisoned:
      return "It is never merged.";
    case PageState::kSwapped:
      if (e.stored->pages > 1) return "It was merged when it was stored.";
      return "It is stored by itself: when it was, no page that lay in the pool was found to be equal.";
    case PageState::kInTransit:
      return "It is not merged: it is about to be stored.";
    case PageState::kResident:
    case PageState::kOut:
      break;
  }
  return manager.merges() ? "" : "It is not merged: merging is switched off (--merge=off).";
}

void ExplainMerging(Explanation& e, const MemoryManager& manager, const GuestMemory& guest) {
  e.merging = MergingOf(e, manager);
  if (!e.merging.empty()) return;
  const Merger::Memory memory = manager.merger().Recall(GuestId{static_cast<uint16_t>(guest.id())}, e.gfn);
  if (memory.why != MergeRefusal::kNone) e.merge_refused = std::string(Name(memory.why));
  e.skipped_passes = memory.skip;
  e.merging = absl::StrCat("It is not merged: ", WhyUnmerged(memory.why, manager));
  if (memory.skip > 0) {
    absl::StrAppend(&e.merging, " It is not looked at in the next ", memory.skip,
                    memory.skip == 1 ? " pass." : " passes.");
  }
}

// It may have left its frame since it was looked at.
uint32_t SharersOf(SharedFrames& shared, FrameNumber frame) {
  const std::optional<SharedFrames::Hold> hold = shared.HoldFrame(frame);
  return hold.has_value() ? static_cast<uint32_t>(shared.SharersOf(*hold).size()) : 0;
}

}  // namespace

absl::string_view Name(PageState state) {
  switch (state) {
    case PageState::kAbsent:
      return "absent";
    case PageState::kResident:
      return "resident";
    case PageState::kOut:
      return "out";
    case PageState::kInTransit:
      return "in transit";
    case PageState::kSwapped:
      return "swapped";
    case PageState::kPoisoned:
      return "poisoned";
    case PageState::kShared:
      return "shared";
    case PageState::kInherited:
      return "inherited";
  }
  return "";
}

absl::StatusOr<Explanation> Explain(MemoryManager& manager, GuestMemory& guest, Gfn gfn) {
  if (gfn >= Gfn(0) + guest.size()) {
    return absl::OutOfRangeError(absl::StrCat("guest-", guest.id(), " has no page ", gfn.value(),
                                              ": its memory ends at page ", guest.size().in_pages()));
  }
  const GuestMemory::PageFacts facts = guest.Look(gfn);
  const PageEntry entry = facts.entry;
  Explanation e{.guest = guest.id(),
                .gfn = gfn,
                .state = entry.state(),
                .zero = facts.zero,
                .whole = facts.whole,
                .block_pages = facts.count};
  if (entry.has_frame() || e.state == PageState::kShared) e.frame = entry.frame();
  if (e.state == PageState::kShared) e.sharers = SharersOf(manager.shared(), entry.frame());
  if (e.state == PageState::kSwapped) e.stored = manager.store().Describe(entry.slot());
  if (entry.kept().has_value()) e.stored = manager.store().Describe(*entry.kept());
  e.residence = absl::StrCat(Residence(e), KeptCopy(e));
  ExplainBlock(e, facts, manager.granularity(), manager.block_policy());
  ExplainMerging(e, manager, guest);
  return e;
}

}  // namespace quire
