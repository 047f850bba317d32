#include "vmm/swap_spec.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

SwapSpec File(std::string path, std::optional<ByteCount> size = {}) {
  return {.kind = SwapSpec::Kind::kFile, .where = std::move(path), .size = size};
}
SwapSpec Nbd(std::string uri) { return {.kind = SwapSpec::Kind::kNbd, .where = std::move(uri)}; }

TEST(SwapSpecTest, FilesWithAndWithoutSize) {
  EXPECT_THAT(*ParseSwap("file:/var/tmp"), ElementsAre(File("/var/tmp")));
  EXPECT_THAT(*ParseSwap("file:/a:4G"), ElementsAre(File("/a", ByteCount::GiB(4))));
  EXPECT_THAT(*ParseSwap("file:a:b"), ElementsAre(File("a:b"))) << "not a size";
  EXPECT_THAT(*ParseSwap("file:a:b:16M"), ElementsAre(File("a:b", ByteCount::MiB(16))));
}

TEST(SwapSpecTest, UrisWithAndWithoutScheme) {
  EXPECT_THAT(*ParseSwap("nbd:nbd://h:10809/x"), ElementsAre(Nbd("nbd://h:10809/x")));
  EXPECT_THAT(*ParseSwap("nbd://h:10809/x"), ElementsAre(Nbd("nbd://h:10809/x")));
  EXPECT_THAT(*ParseSwap("nbd:nbd+unix:///?socket=/s"), ElementsAre(Nbd("nbd+unix:///?socket=/s")));
  EXPECT_THAT(*ParseSwap("nbd:nbds://h/"), ElementsAre(Nbd("nbds://h/")));
}

TEST(SwapSpecTest, SeveralInTheirOrder) {
  EXPECT_THAT(*ParseSwap("file:/a,b:4G,nbd:nbd://h/?x=1,2,file:/c"),
              ElementsAre(File("/a,b", ByteCount::GiB(4)), Nbd("nbd://h/?x=1,2"), File("/c")));
}

TEST(SwapSpecTest, WhatIsNoStoreIsRefusedWithWhatWouldBe) {
  for (const char* text : {"", "/var/tmp", "file:", "file::4G", "nbd:", "nbd://", "file:/a,", "zram:/x", "file:/a:1M",
                           "file:/a:4097K", "file:/a:0"}) {
    const absl::Status status = ParseSwap(text).status();
    if (absl::string_view(text) == "file:/a,") continue;  // a path
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("such as file:/var/tmp:4G")) << text;
  }
  std::string many = "file:/a";
  for (int i = 0; i < 20; ++i) absl::StrAppend(&many, ",file:/a", i);
  EXPECT_THAT(std::string(ParseSwap(many).status().message()), HasSubstr("more than 16"));
}

TEST(SwapSpecTest, AFileInADirectoryIsAsLargeAsTheGuestsMemoryUnlessToldOtherwise) {
  const auto open = [](const SwapSpec& spec) { return OpenSwap({spec}, ByteCount::MiB(8), absl::Seconds(1)); };
  const auto stores = open(File(testing::TempDir()));
  ASSERT_TRUE(stores.ok()) << stores.status();
  EXPECT_EQ(stores->at(0)->size(), ByteCount::MiB(8));
  EXPECT_EQ(stores->at(0)->name(), "file");
  const auto sized = open(File(testing::TempDir(), ByteCount::MiB(3)));
  ASSERT_TRUE(sized.ok()) << sized.status();
  EXPECT_EQ(sized->at(0)->size(), ByteCount::MiB(3));
  EXPECT_FALSE(open(File("/nowhere/at/all")).ok());
}

}  // namespace
}  // namespace quire
