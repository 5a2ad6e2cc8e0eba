// How photos are read for this model; written with the export.
namespace Padim
{
    public static class Settings
    {
        public const int ImageRows = @IMAGE_ROWS@, ImageColumns = @IMAGE_COLUMNS@; // what photos are resized to
        public const int CropRows = @CROP_ROWS@, CropColumns = @CROP_COLUMNS@; // the middle of it, which the network sees
        public const string Resize = "@RESIZE@"; // stretch, shorter-side or pad
        public const string Interpolation = "@INTERPOLATION@"; // bilinear or bicubic
        public const string Model = "@MODEL_DIGEST@";
    }
}
