#include "tests/model/op_program.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"

namespace quire::model {
namespace {

const char* Name(Content content) {
  switch (content) {
    case Content::kZero:
      return "Content::kZero";
    case Content::kSameFilled:
      return "Content::kSameFilled";
    case Content::kCompressible:
      return "Content::kCompressible";
    case Content::kNoise:
      return "Content::kNoise";
  }
  return "?";
}

const char* Name(Placement placement) {
  return placement == Placement::kArena ? "Placement::kArena" : "Placement::kReservation";
}

const char* Name(BlockPolicy policy) {
  switch (policy) {
    case BlockPolicy::kNever:
      return "BlockPolicy::kNever";
    case BlockPolicy::kAdvised:
      return "BlockPolicy::kAdvised";
    case BlockPolicy::kAlways:
      return "BlockPolicy::kAlways";
  }
  return "?";
}

const char* Name(Mmu mmu) {
  switch (mmu) {
    case Mmu::kFake:
      return "Mmu::kFake";
    case Mmu::kFakeWithAccessBits:
      return "Mmu::kFakeWithAccessBits";
    case Mmu::kEpt:
      return "Mmu::kEpt";
  }
  return "?";
}

struct Printer {
  std::string operator()(const Read& op) const {
    return absl::StrFormat("Read{.guest = %u, .page = %u, .count = %u}", op.guest, op.page, op.count);
  }
  std::string operator()(const Write& op) const {
    return absl::StrFormat("Write{.guest = %u, .page = %u, .content = %s, .seed = %u}", op.guest, op.page,
                           Name(op.content), op.seed);
  }
  std::string operator()(const Poke& op) const {
    return absl::StrFormat("Poke{.guest = %u, .page = %u, .word = %u, .value = %u}", op.guest, op.page, op.word,
                           op.value);
  }
  std::string operator()(const Probe& op) const {
    return absl::StrFormat("Probe{.guest = %u, .page = %u}", op.guest, op.page);
  }
  std::string operator()(const Discard& op) const {
    return absl::StrFormat("Discard{.guest = %u, .page = %u, .count = %u}", op.guest, op.page, op.count);
  }
  std::string operator()(const Advise& op) const {
    return absl::StrFormat("Advise{.guest = %u, .page = %u, .count = %u, .huge = %s}", op.guest, op.page, op.count,
                           op.huge ? "true" : "false");
  }
  std::string operator()(const DeviceRead& op) const {
    return absl::StrFormat("DeviceRead{.guest = %u, .page = %u, .byte = %u, .size = %u}", op.guest, op.page, op.byte,
                           op.size);
  }
  std::string operator()(const DeviceWrite& op) const {
    return absl::StrFormat("DeviceWrite{.guest = %u, .page = %u, .byte = %u, .size = %u, .seed = %u}", op.guest,
                           op.page, op.byte, op.size, op.seed);
  }
  std::string operator()(const DeviceTransfer& op) const {
    return absl::StrFormat(
        "DeviceTransfer{.guest = %u, .page = %u, .byte = %u, .size = %u, .seed = %u, .into_memory = %s}", op.guest,
        op.page, op.byte, op.size, op.seed, op.into_memory ? "true" : "false");
  }
  std::string operator()(const WirePages& op) const {
    return absl::StrFormat("WirePages{.guest = %u, .page = %u, .count = %u}", op.guest, op.page, op.count);
  }
  std::string operator()(const UnwirePages& op) const { return absl::StrFormat("UnwirePages{.guest = %u}", op.guest); }
  std::string operator()(const Age& op) const {
    return absl::StrFormat("Age{.guest = %u, .block = %u}", op.guest, op.block);
  }
  std::string operator()(const AgeBlocks& op) const {
    return absl::StrFormat("AgeBlocks{.guest = %u, .block = %u, .count = %u}", op.guest, op.block, op.count);
  }
  std::string operator()(const Prefetch& op) const {
    return absl::StrFormat("Prefetch{.guest = %u, .block = %u}", op.guest, op.block);
  }
  std::string operator()(const Evict& op) const {
    return absl::StrFormat("Evict{.guest = %u, .block = %u}", op.guest, op.block);
  }
  std::string operator()(const Reclaim& op) const { return absl::StrFormat("Reclaim{.pages = %u}", op.pages); }
  std::string operator()(const MergePass&) const { return "MergePass{}"; }
  std::string operator()(const ReclaimShared& op) const {
    return absl::StrFormat("ReclaimShared{.many = %s}", op.many ? "true" : "false");
  }
  std::string operator()(const Poison& op) const {
    return absl::StrFormat("Poison{.guest = %u, .page = %u, .discard = %s}", op.guest, op.page,
                           op.discard ? "true" : "false");
  }
  std::string operator()(const WriteOut& op) const { return absl::StrFormat("WriteOut{.kib = %u}", op.kib); }
  std::string operator()(const Recompress& op) const { return absl::StrFormat("Recompress{.pages = %u}", op.pages); }
  std::string operator()(const Compact& op) const { return absl::StrFormat("Compact{.blocks = %u}", op.blocks); }
  std::string operator()(const AddGuest& op) const {
    return absl::StrFormat("AddGuest{.pages = %u, .placement = %s, .mmu = %s, .frames = %u, .swapped = %u}", op.pages,
                           Name(op.placement), Name(op.mmu), op.frames, op.swapped);
  }
  std::string operator()(const SetLimits& op) const {
    return absl::StrFormat("SetLimits{.guest = %u, .frames = %u, .swapped = %u}", op.guest, op.frames, op.swapped);
  }
  std::string operator()(const SetPolicies& op) const {
    return absl::StrFormat("SetPolicies{.merge = %s, .blocks = %s}", op.merge ? "true" : "false", Name(op.blocks));
  }
  std::string operator()(const RemoveGuest& op) const { return absl::StrFormat("RemoveGuest{.guest = %u}", op.guest); }
  std::string operator()(const Clone& op) const {
    return absl::StrFormat("Clone{.guest = %u, .mmu = %s}", op.guest, Name(op.mmu));
  }
  std::string operator()(const Wire& op) const { return absl::StrFormat("Wire{.pages = %u}", op.pages); }
  std::string operator()(const Unwire&) const { return "Unwire{}"; }
};

// Mostly within a small set of pages that stays warm, else anywhere.
uint32_t RandomPage(Dice& dice) { return dice.Below(4) == 0 ? dice.Below(2048) : dice.Below(2) * 700 + dice.Below(64); }

Content RandomContent(Dice& dice) {
  const uint32_t share = dice.Below(16);
  if (share < 2) return Content::kZero;
  if (share < 4) return Content::kSameFilled;
  if (share < 6) return Content::kNoise;
  return Content::kCompressible;
}

// Half of the pages that are written have content that others have too.
uint32_t RandomSeed(Dice& dice) { return dice.Below(2) == 0 ? 1 + dice.Below(8) : 1 + dice.Below(1000); }

}  // namespace

std::string ToCpp(const Op& op) { return std::visit(Printer(), op); }

std::string ToCpp(const Program& program) {
  std::string text = "{\n";
  for (const Op& op : program) absl::StrAppend(&text, "    ", ToCpp(op), ",\n");
  return text + "}";
}

uint32_t BytesDice::Below(uint32_t n) {
  uint32_t value = 0;
  for (uint32_t reach = 1; reach < n && !bytes_.empty(); reach <<= 8) {
    value = value << 8 | bytes_[0];
    bytes_.remove_prefix(1);
  }
  return value % n;
}

// Mostly of small things, as a ring's are.
uint32_t RandomSize(Dice& dice) { return dice.Below(4) == 0 ? 1 + dice.Below(8192) : 1 + dice.Below(32); }

Op RandomDeviceOp(Dice& dice, uint32_t guest) {
  const uint32_t kind = dice.Below(8);
  const uint32_t page = RandomPage(dice), byte = dice.Below(kPageSize), size = RandomSize(dice);
  if (kind < 4) return DeviceRead{.guest = guest, .page = page, .byte = byte, .size = size};
  if (kind < 7) {
    return DeviceWrite{.guest = guest, .page = page, .byte = byte, .size = size, .seed = RandomSeed(dice)};
  }
  return DeviceTransfer{.guest = guest,
                        .page = page,
                        .byte = byte,
                        .size = size,
                        .seed = RandomSeed(dice),
                        .into_memory = dice.Below(2) == 0};
}

Op RandomOp(Dice& dice) {
  // In 1024ths. Accesses are most of it; an eviction of a block costs as much as hundreds of them.
  const uint32_t kind = dice.Below(1024);
  const uint32_t guest = dice.Below(8);
  if (kind < 283) return Read{.guest = guest, .page = RandomPage(dice), .count = 1};
  // Seldom, and not for long: other things happen to pages that are not wired.
  if (kind < 285) return WirePages{.guest = guest, .page = RandomPage(dice), .count = 1 + dice.Below(48)};
  if (kind < 289) return UnwirePages{.guest = guest};
  if (kind < 290) return Poison{.guest = guest, .page = RandomPage(dice), .discard = dice.Below(8) != 0};
  if (kind < 292) return Recompress{.pages = 1 + dice.Below(600)};
  if (kind < 300) {
    return Advise{.guest = guest, .page = dice.Below(2048), .count = 1 + dice.Below(2048), .huge = dice.Below(4) != 0};
  }
  if (kind < 302) {
    return SetLimits{.guest = guest,
                     .frames = dice.Below(2) == 0 ? 1024 + dice.Below(512) : 0,
                     .swapped = dice.Below(4) == 0 ? 1 + dice.Below(1024) : 0};
  }
  if (kind < 304) {
    // As it is at first, more often than not.
    const uint32_t blocks = dice.Below(4);
    return SetPolicies{.merge = dice.Below(4) != 0,
                       .blocks = blocks == 0   ? BlockPolicy::kNever
                                 : blocks == 1 ? BlockPolicy::kAlways
                                               : BlockPolicy::kAdvised};
  }
  if (kind < 340) return Read{.guest = guest, .page = dice.Below(2048), .count = 1 + dice.Below(64)};
  if (kind < 700) {
    return Write{.guest = guest, .page = RandomPage(dice), .content = RandomContent(dice), .seed = RandomSeed(dice)};
  }
  if (kind < 800) return RandomDeviceOp(dice, guest);
  if (kind < 900) {
    return Poke{.guest = guest, .page = RandomPage(dice), .word = dice.Below(512), .value = dice.Below(3)};
  }
  if (kind < 940) return Probe{.guest = guest, .page = RandomPage(dice)};
  if (kind < 960) return Discard{.guest = guest, .page = dice.Below(2048), .count = 1 + dice.Below(100)};
  if (kind < 975) return Age{.guest = guest, .block = dice.Below(4)};
  if (kind < 980) return AgeBlocks{.guest = guest, .block = dice.Below(4), .count = 1 + dice.Below(4)};
  if (kind < 985) return Prefetch{.guest = guest, .block = dice.Below(4)};
  if (kind < 995) return Evict{.guest = guest, .block = dice.Below(4)};
  if (kind < 1002) return Reclaim{.pages = 1 + dice.Below(600)};
  if (kind < 1005) return WriteOut{.kib = 1 + dice.Below(2048)};
  if (kind < 1006) return Clone{.guest = guest, .mmu = static_cast<Mmu>(dice.Below(3))};
  if (kind < 1009) {
    return AddGuest{.pages = 1 + dice.Below(2048),
                    .placement = dice.Below(2) == 0 ? Placement::kArena : Placement::kReservation,
                    .mmu = static_cast<Mmu>(dice.Below(3)),
                    .frames = dice.Below(2) == 0 ? 1024 + dice.Below(512) : 0,
                    .swapped = dice.Below(4) == 0 ? 1 + dice.Below(1024) : 0};
  }
  if (kind < 1012) return RemoveGuest{.guest = guest};
  if (kind < 1015) return Compact{.blocks = 1 + dice.Below(4)};
  if (kind < 1018) return MergePass{};
  if (kind < 1020) return ReclaimShared{.many = dice.Below(2) == 0};
  if (kind < 1022) return Wire{.pages = 1 + dice.Below(1200)};
  return Unwire{};
}

}  // namespace quire::model
