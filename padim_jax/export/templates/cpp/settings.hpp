// How photos are read for this model; written with the export.
#pragma once

namespace settings {
constexpr int image_rows = @IMAGE_ROWS@, image_columns = @IMAGE_COLUMNS@;  // what photos are resized to
constexpr int crop_rows = @CROP_ROWS@, crop_columns = @CROP_COLUMNS@;      // the middle of it, which the network sees
constexpr const char* resize = "@RESIZE@";                // stretch, shorter-side or pad
constexpr const char* interpolation = "@INTERPOLATION@";  // bilinear or bicubic
constexpr const char* model = "@MODEL_DIGEST@";
}  // namespace settings
