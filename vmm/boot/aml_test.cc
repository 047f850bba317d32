#include "vmm/boot/aml.h"

#include <cstdint>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace quire::aml {
namespace {

std::string Hex(absl::string_view bytes) { return absl::BytesToHexString(bytes); }

TEST(Aml, IntegersTakeTheShortestEncoding) {
  EXPECT_EQ(Hex(Integer(0)), "00");
  EXPECT_EQ(Hex(Integer(1)), "01");
  EXPECT_EQ(Hex(Integer(0xff)), "0aff");
  EXPECT_EQ(Hex(Integer(0x100)), "0b0001");
  EXPECT_EQ(Hex(Integer(0x10000)), "0c00000100");
  EXPECT_EQ(Hex(Integer(uint64_t{1} << 32)), "0e0000000001000000");
}

TEST(Aml, StringsEndWithAZero) { EXPECT_EQ(Hex(String("AB")), "0d414200"); }

// The identifiers as every PC's tables have them.
TEST(Aml, EisaIdsAreCompressed) {
  EXPECT_EQ(Hex(EisaId("PNP0501")), "0c41d00501");
  EXPECT_EQ(Hex(EisaId("PNP0A03")), "0c41d00a03");
}

TEST(Aml, NamesPrecedeTheirObjects) {
  EXPECT_EQ(Hex(Name("_UID", Integer(2))), "085f5549440a02");
  EXPECT_EQ(Hex(Name("_S5_", Package({Integer(5), Integer(0)}))), "085f53355f1205020a0500");
}

TEST(Aml, LengthsCountThemselves) {
  // Scope of 4 + n bytes; the last sizes that fit into 1, 2 and 3 bytes of length, and the first that do not.
  const auto length = [](size_t terms) { return Hex(Scope("_SB_", std::string(terms, 'x')).substr(1, 4)); };
  EXPECT_EQ(length(63 - 1 - 4).substr(0, 2), "3f");
  EXPECT_EQ(length(64 - 1 - 4).substr(0, 4), "4104");  // 65: two bytes of length now
  EXPECT_EQ(length(0xfff - 2 - 4).substr(0, 4), "4fff");
  EXPECT_EQ(length(0x1000 - 2 - 4).substr(0, 6), "810001");
  EXPECT_EQ(length(0xfffff - 3 - 4).substr(0, 6), "8fffff");
  EXPECT_EQ(length(0x100000 - 3 - 4), "c1000001");
}

TEST(Aml, BuffersSayTheirSize) { EXPECT_EQ(Hex(Buffer("\xaa\xbb")), "11050a02aabb"); }

TEST(Aml, ResourcesEndWithATag) {
  EXPECT_EQ(Hex(ResourceTemplate(IsaInterrupt(4))), "11080a052210007900");
  EXPECT_EQ(Hex(IoPorts(0x3f8, 8)), "4701f803f8030108");
  EXPECT_EQ(Hex(Memory32(0xd0001000, 0x1000)), "86090001001000d000100000");
  EXPECT_EQ(Hex(EdgeInterrupt(17)), "890600030111000000");
}

}  // namespace
}  // namespace quire::aml
