#include "vmm/results/html.h"

#include "gtest/gtest.h"

namespace quire::results {
namespace {

TEST(EscapeHtmlTest, LeavesNoMarkup) {
  EXPECT_EQ(EscapeHtml("</script><b title=\"x\">'&amp;"), "&lt;/script&gt;&lt;b title=&quot;x&quot;&gt;&#39;&amp;amp;");
}

TEST(EscapeHtmlTest, LeavesTextAsItIs) {
  EXPECT_EQ(EscapeHtml("overcommit 2,\n40 \u00b5s, \u4e2d, \U0001f600"),
            "overcommit 2,\n40 \u00b5s, \u4e2d, \U0001f600");
}

TEST(EscapeHtmlTest, ReplacesWhatIsNoText) {
  const std::string replacement = "\xef\xbf\xbd";
  EXPECT_EQ(EscapeHtml(absl::string_view("a\0b\x1b[", 5)), "a" + replacement + "b" + replacement + "[");
  EXPECT_EQ(EscapeHtml("\xff|\xc3|\xed\xa0\x80"),
            replacement + "|" + replacement + "|" + replacement + replacement + replacement);
  EXPECT_EQ(EscapeHtml("\xc0\xbc"), replacement + replacement);  // an overlong '<'
  EXPECT_EQ(EscapeHtml("\u202etxt"), replacement + "txt");       // from right to left
}

TEST(EscapeJsonInHtmlTest, CannotEndTheElement) {
  EXPECT_EQ(EscapeJsonInHtml(R"({"a":"</script><!--&"})"), R"({"a":"\u003c/script\u003e\u003c!--\u0026"})");
}

}  // namespace
}  // namespace quire::results
